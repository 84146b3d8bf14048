//! The checker: what was committed and what came of it. Pure, so that it can be shown to find what it is there for.

use std::collections::BTreeMap;

/// Complaints of one kind that are printed one by one; the others are a number.
const SHOWN: usize = 10;

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    pub(crate) customer: i64,
    pub(crate) seq: i64,
}

/// What a message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) order: Order,
    /// Of a message that belongs to a transaction that was rolled back.
    pub(crate) phantom: bool,
}

/// What the two databases have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Rows that were committed.
    pub(crate) orders: Vec<Order>,
    /// In the order of their transactions.
    pub(crate) effects: Vec<Effect>,
    /// What the effects have added up; two for each.
    pub(crate) total: i64,
    /// What the effects have sent.
    pub(crate) announced: usize,
    /// Inbox rows.
    pub(crate) claims: usize,
}

/// How many complaints there are of each kind, and the first of them.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) lost: usize,
    pub(crate) duplicates: usize,
    pub(crate) disorders: usize,
    pub(crate) phantoms: usize,
    pub(crate) torn: usize,
    pub(crate) complaints: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub(crate) const fn is_good(&self) -> bool {
        self.lost + self.duplicates + self.disorders + self.phantoms + self.torn == 0
    }

    fn complain(&mut self, count: impl FnOnce(&mut Self) -> &mut usize, text: String) {
        let count = count(self);
        *count += 1;
        if *count <= SHOWN {
            self.complaints.push(text);
        }
    }
}

impl Ledger {
    /// Compares. `announced_every`: every so manieth order of a customer is announced.
    pub(crate) fn verdict(&self, announced_every: i64) -> Verdict {
        let mut verdict = Verdict::default();
        let mut wanted: BTreeMap<Order, u32> =
            self.orders.iter().map(|order| (*order, 0)).collect();
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        for Effect { order, phantom } in &self.effects {
            let Order { customer, seq } = *order;
            let what = format!("order {seq} of customer {customer}");
            let times = wanted.get_mut(order).filter(|_| !phantom);
            let Some(times) = times else {
                let text = format!("PHANTOM: {what} was never committed and has an effect");
                verdict.complain(|verdict| &mut verdict.phantoms, text);
                continue;
            };
            *times += 1;
            if *times > 1 {
                let text = format!("DUPLICATE: {what} has effect number {times}");
                verdict.complain(|verdict| &mut verdict.duplicates, text);
                continue;
            }
            let before = last.entry(customer).or_insert(0);
            if seq < *before {
                let text = format!("ORDER: {what} took effect after order {before}");
                verdict.complain(|verdict| &mut verdict.disorders, text);
            }
            *before = seq.max(*before);
        }
        for (Order { customer, seq }, _) in wanted.iter().filter(|(_, times)| **times == 0) {
            let text = format!("LOST: order {seq} of customer {customer} has no effect");
            verdict.complain(|verdict| &mut verdict.lost, text);
        }
        self.sums(announced_every, &mut verdict);
        verdict
    }

    /// What belongs to one transaction is there as a whole.
    fn sums(&self, announced_every: i64, verdict: &mut Verdict) {
        let effects = self.effects.len();
        let announced =
            self.effects.iter().filter(|effect| effect.order.seq % announced_every == 0).count();
        let sums = [
            ("added up to", i64::try_from(effects * 2).unwrap_or(i64::MAX), self.total),
            ("sent", count(announced), count(self.announced)),
            ("claimed", count(effects), count(self.claims)),
        ];
        for (what, wanted, found) in sums.into_iter().filter(|(_, wanted, found)| wanted != found) {
            let text = format!("TORN: {effects} effects should have {what} {wanted}, not {found}");
            verdict.complain(|verdict| &mut verdict.torn, text);
        }
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a panic is how a test says what went wrong")]
mod tests {
    use super::*;

    const EVERY: i64 = 2;

    /// Two customers with three orders each, all as it should be.
    fn good() -> Ledger {
        let order = |(customer, seq)| Order { customer, seq };
        let orders: Vec<Order> =
            [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2), (2, 3)].map(order).to_vec();
        let effect = |order: &Order| Effect { order: *order, phantom: false };
        let effects: Vec<Effect> = orders.iter().map(effect).collect();
        Ledger { orders, effects, total: 12, announced: 2, claims: 6 }
    }

    fn found(ledger: &Ledger) -> [usize; 5] {
        let verdict = ledger.verdict(EVERY);
        assert_eq!(verdict.is_good(), verdict.complaints.is_empty());
        let Verdict { lost, duplicates, disorders, phantoms, torn, .. } = verdict;
        [lost, duplicates, disorders, phantoms, torn]
    }

    #[test]
    fn one_effect_for_each_order_in_the_order_of_each_customer_is_good() {
        assert_eq!(found(&good()), [0; 5]);
        assert_eq!(found(&Ledger::default()), [0; 5]);
    }

    #[test]
    fn an_order_without_an_effect_is_lost_wherever_it_was() {
        for position in 0..6 {
            let mut ledger = good();
            let removed = ledger.effects.remove(position);
            (ledger.total, ledger.claims) = (10, 5);
            ledger.announced -= usize::from(removed.order.seq % EVERY == 0);

            assert_eq!(found(&ledger), [1, 0, 0, 0, 0], "{removed:?}");
        }
    }

    #[test]
    fn an_effect_that_is_there_twice_is_a_duplicate_whenever_it_came() {
        for position in 0..=6 {
            let mut ledger = good();
            ledger.effects.insert(position, ledger.effects[0]);
            (ledger.total, ledger.claims) = (14, 7);

            assert_eq!(found(&ledger), [0, 1, 0, 0, 0], "at {position}");
        }
    }

    #[test]
    fn two_orders_of_a_customer_that_changed_places_are_a_disorder_and_of_two_customers_none() {
        let mut ledger = good();
        ledger.effects.swap(2, 3);
        assert_eq!(found(&ledger), [0, 0, 1, 0, 0]);

        let mut ledger = good();
        ledger.effects.swap(0, 1);
        assert_eq!(found(&ledger), [0; 5]);
    }

    #[test]
    fn an_effect_of_what_was_rolled_back_is_a_phantom_even_if_its_number_was_used_again() {
        let mut ledger = good();
        ledger.effects[3].phantom = true;
        assert_eq!(found(&ledger), [1, 0, 0, 1, 0]);

        let mut ledger = good();
        let order = Order { customer: 1, seq: 5 };
        ledger.effects.push(Effect { order, phantom: false });
        (ledger.total, ledger.claims) = (14, 7);
        assert_eq!(found(&ledger), [0, 0, 0, 1, 0]);
    }

    #[test]
    fn half_a_transaction_is_torn() {
        for break_it in [
            (|ledger: &mut Ledger| ledger.total -= 1) as fn(&mut Ledger),
            |ledger| ledger.announced += 1,
            |ledger| ledger.claims -= 1,
        ] {
            let mut ledger = good();
            break_it(&mut ledger);

            assert_eq!(found(&ledger), [0, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn many_complaints_are_counted_and_some_are_shown() {
        let mut ledger = good();
        ledger.orders.extend((10..100).map(|seq| Order { customer: 1, seq }));

        let verdict = ledger.verdict(EVERY);

        assert_eq!((verdict.lost, verdict.complaints.len()), (90, SHOWN));
    }
}
