//! How a hash exchange chooses: each destination gets a share of all keys, and keeps its keys when others come or go.
//!
//! Weighted rendezvous hashing: the destination with the best score for the key wins. Cost grows with the number of
//! bindings and not, as with a ring of buckets, with their weights, which a client sets (RabbitMQ: CVE-2026-67219).

/// One destination's claim on a key; the greatest wins.
pub(super) fn score(key: u64, destination: u64, weight: u32) -> f64 {
    let mixed = mix(key ^ mix(destination));
    // 53 bits fill the mantissa; the half keeps the share off 0 and 1, whose logarithms are of no use.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit into the mantissa")]
    let share = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / share.ln()
}

/// FNV-1a, the same on every machine and in every release: which queue a key goes to must not change with an update.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn winner(key: &str, destinations: &[(u64, u32)]) -> u64 {
        let key = hash(key.as_bytes());
        let scored = destinations.iter().map(|(id, weight)| (score(key, *id, *weight), *id));
        scored.max_by(|left, right| left.0.total_cmp(&right.0)).expect("some destination").1
    }

    #[test]
    fn keys_are_shared_by_weight() {
        let destinations = [(1, 1), (2, 1), (3, 2)];

        let mut won = [0; 4];
        for key in 0..40_000_u32 {
            won[usize::try_from(winner(&key.to_string(), &destinations)).expect("small")] += 1;
        }

        for (id, expected) in [(1, 10_000), (2, 10_000), (3, 20_000)] {
            let off = i32::abs(won[id] - expected);
            assert!(off < 500, "{won:?}");
        }
    }

    #[test]
    fn only_the_keys_of_a_removed_destination_move() {
        let all = [(1, 1), (2, 1), (3, 1)];
        let without = [(1, 1), (3, 1)];

        for key in (0..1000_u32).map(|key| key.to_string()) {
            let before = winner(&key, &all);
            assert!(before == 2 || winner(&key, &without) == before);
        }
    }
}
