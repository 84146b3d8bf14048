//! What reading a definitions file has to say about it.

use std::fmt;

/// Most notes kept; a file with more has one cause many times over.
const NOTES_MAX: usize = 1000;

/// Everything that was not taken over as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    notes: Vec<Note>,
    omitted: usize,
}

/// One thing that was not taken over as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where in the file, such as `users[2].password_hash`.
    pub path: String,
    /// Why, and what was done instead.
    pub reason: String,
}

impl Report {
    /// Adds a note. Whoever applies definitions adds here what the broker refused.
    pub fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(Note { path: path.into(), reason: reason.into() });
        } else {
            self.omitted += 1;
        }
    }

    /// The notes, in the order of the file; at most a thousand.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// How many notes there were beyond those kept.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether everything was taken over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_counts_the_rest() {
        let mut report = Report::default();

        (0..NOTES_MAX + 5).for_each(|_| report.add("x", "y"));

        assert_eq!((report.notes().len(), report.omitted()), (NOTES_MAX, 5));
    }
}
