//! Values in a row, found by a small number that stays theirs until they are removed.

/// Values by number; numbers of removed values are given again, so the row never outgrows its fullest moment.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Keeps a value and tells its number.
    ///
    /// # Panics
    ///
    /// With 2³² values at once, which do not fit into memory.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(number) = self.free.pop() {
            if let Some(slot) = self.values.get_mut(number as usize) {
                *slot = Some(value);
            }
            return number;
        }
        let Ok(number) = u32::try_from(self.values.len()) else {
            unreachable!("2^32 values do not fit into memory");
        };
        self.values.push(Some(value));
        number
    }

    /// Gives a value up.
    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.values.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(value)
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.values.get_mut(number as usize)?.as_mut()
    }

    /// All values in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_removed_value_is_given_again() {
        let mut slots = Slots::default();
        let first = slots.insert('a');
        let second = slots.insert('b');

        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.insert('c'), first);
        assert_eq!((slots.get(first), slots.get(second), slots.len()), (Some(&'c'), Some(&'b'), 2));
    }
}
