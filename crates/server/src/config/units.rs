//! Sizes and durations as people write them: `64MiB`, `500ms`.

use std::time::Duration;

/// Units of sizes; the binary ones first, as they are the usual ones.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Units of durations in milliseconds; `ms` before `m` and `s`, so that the longest fits first.
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a size in bytes: a whole number with an optional unit, such as `4096`, `64KiB`, `50MB`.
///
/// # Errors
///
/// A sentence about what is wrong, for the end of a message that names the option.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, unit) = split_number(text);
    let number: u64 = digits.parse().map_err(|_| bad_size(text))?;
    let factor = match unit {
        "" => 1,
        unit => SIZE_UNITS
            .iter()
            .find_map(|(name, factor)| (*name == unit).then_some(*factor))
            .ok_or_else(|| bad_size(text))?,
    };
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is more than 2^64 bytes"))
}

/// Parses a duration: whole numbers with units, such as `500ms`, `10s`, `1h30m`; `0` needs no unit.
///
/// # Errors
///
/// A sentence about what is wrong, for the end of a message that names the option.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let (digits, after) = split_number(rest);
        let number: u64 = digits.parse().map_err(|_| bad_duration(text))?;
        let (unit, factor) = DURATION_UNITS
            .iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(|| bad_duration(text))?;
        rest = after.strip_prefix(unit).unwrap_or_default();
        total_ms = number
            .checked_mul(*factor)
            .and_then(|part_ms| total_ms.checked_add(part_ms))
            .ok_or_else(|| format!("`{text}` is too long"))?;
    }
    if text.is_empty() {
        return Err(bad_duration(text));
    }
    Ok(Duration::from_millis(total_ms))
}

/// A size as people read it: exact, in the largest binary unit that divides it.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let exact = SIZE_UNITS[..4]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match exact {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// A duration as people read it: exact to the millisecond, in the largest unit that divides it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let total_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| total_ms >= *factor && total_ms.is_multiple_of(*factor));
    match exact {
        Some((unit, factor)) => format!("{}{unit}", total_ms / factor),
        None => "0".to_owned(),
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits, rest.trim_start())
}

fn bad_size(text: &str) -> String {
    format!("`{text}` is not a size; write a number of bytes or one with a unit, such as \"64MiB\"")
}

fn bad_duration(text: &str) -> String {
    format!("`{text}` is not a duration; write a number with a unit, such as \"10s\" or \"500ms\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        let sizes =
            ["4096", "64KiB", "16 MiB", "50MB", "7B"].map(|text| parse_bytes(text).unwrap());

        assert_eq!(sizes, [4096, 65_536, 16_777_216, 50_000_000, 7]);
    }

    #[test]
    fn a_size_without_number_with_an_unknown_unit_or_too_large_is_refused() {
        for text in ["", "MiB", "12 potatoes", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_add_up_their_parts() {
        let durations =
            ["0", "500ms", "10s", "1h30m", "2d"].map(|text| parse_duration(text).unwrap());

        assert_eq!(durations.map(|d| d.as_millis()), [0, 500, 10_000, 5_400_000, 172_800_000]);
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        for text in ["", "10", "s", "1x", "1s2", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_parses_back() {
        for bytes in [1, 1000, 65_536, 16 << 20, (1 << 30) + 1] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
        for ms in [0, 1, 1500, 60_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
