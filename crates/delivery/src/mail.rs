//! A mail as types that cannot hold what would break out of them.
//!
//! Addresses follow a grammar, header texts have no control characters, and a body is always encoded, in lines that end
//! with CRLF: nothing a tenant writes can become a header, a command or a second mail. What does not fit is refused, not
//! stripped.

use std::fmt;

/// Longest address, in bytes (RFC 5321 §4.5.3.1.3 less the brackets).
const ADDRESS_BYTES_MAX: usize = 254;

/// Longest part before the `@`, in bytes.
const LOCAL_BYTES_MAX: usize = 64;

/// Longest header text, in bytes.
const TEXT_BYTES_MAX: usize = 998;

/// Longest line of a quoted-printable body (RFC 2045 §6.7).
const LINE_CHARS_MAX: usize = 76;

/// Bytes of text in one encoded word: 45 give 60 characters, which with their frame stay below 75 (RFC 2047 §2).
const WORD_BYTES_MAX: usize = 45;

/// Why something cannot be in a mail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Not of the form `local@domain`.
    #[error("`{0}` is not a mail address")]
    Address(String),
    /// Control characters, or longer than 998 bytes.
    #[error("a subject must be at most 998 bytes and have no control characters")]
    Text,
}

/// An address `local@domain`, in ASCII, without quotes and comments.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(Box<str>);

impl Address {
    /// Checks an address. A domain with other letters is turned into its ASCII form.
    ///
    /// # Errors
    ///
    /// [`MailError::Address`] for anything but a dot-atom (RFC 5322 §3.2.3), `@` and a domain name.
    pub fn parse(text: &str) -> Result<Self, MailError> {
        let wrong =
            || MailError::Address(text.chars().take(100).flat_map(char::escape_debug).collect());
        let (local, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        let atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_atom);
        if local.len() > LOCAL_BYTES_MAX || !local.split('.').all(atom) {
            return Err(wrong());
        }
        let domain = url::Host::parse(domain).map_err(|_| wrong())?;
        let url::Host::Domain(domain) = domain else { return Err(wrong()) };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let address = format!("{local}@{domain}");
        if address.len() > ADDRESS_BYTES_MAX || !domain.split('.').all(label) {
            return Err(wrong());
        }
        Ok(Self(address.into()))
    }

    /// The address, without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is behind the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Text of a header: no control characters, so no line end and no NUL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderText(Box<str>);

impl HeaderText {
    /// Checks a text.
    ///
    /// # Errors
    ///
    /// [`MailError::Text`] if it has control characters (line and paragraph separators count) or over 998 bytes.
    pub fn parse(text: &str) -> Result<Self, MailError> {
        let bad = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
        if text.len() > TEXT_BYTES_MAX || text.chars().any(bad) {
            return Err(MailError::Text);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a header: as it is where that is plain ASCII that fits, else in encoded words (RFC 2047).
    fn encoded(&self) -> String {
        let plain = |byte: u8| (b' '..=b'~').contains(&byte);
        if self.0.len() <= 60 && self.0.bytes().all(plain) && !self.0.contains("=?") {
            return self.0.to_string();
        }
        let mut value = String::new();
        let mut rest = &*self.0;
        while !rest.is_empty() {
            // The first line has the header's name as well.
            let room = if value.is_empty() { WORD_BYTES_MAX - 9 } else { WORD_BYTES_MAX };
            let mut end = rest.len().min(room);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (word, left) = rest.split_at(end);
            if !value.is_empty() {
                value.push_str("\r\n ");
            }
            value.push_str("=?UTF-8?B?");
            base64::Engine::encode_string(
                &base64::engine::general_purpose::STANDARD,
                word,
                &mut value,
            );
            value.push_str("?=");
            rest = left;
        }
        value
    }
}

/// A mail with one text.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Sender, in the envelope and in the header.
    pub from: Address,
    /// Recipients.
    pub to: Vec<Address>,
    /// Subject.
    pub subject: HeaderText,
    /// What is in front of the `@` of `Message-ID`; the same for each attempt. ASCII letters, digits, `-` and `_`.
    pub id: String,
    /// Seconds since 1970.
    pub date: u64,
    /// Text, in UTF-8 or not.
    pub body: Vec<u8>,
    /// Media type of the text: one of ours, never a tenant's.
    pub content_type: &'static str,
}

impl Mail {
    /// The whole mail as it is sent, in lines that end with CRLF; dots are not yet doubled.
    #[must_use]
    pub fn encoded(&self) -> String {
        let mut mail = String::with_capacity(self.body.len() * 5 / 4 + 512);
        let mut header = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                mail.push_str(part);
            }
        };
        header("From", &format!("<{}>", self.from.as_str()));
        let to: Vec<_> = self.to.iter().map(|address| format!("<{}>", address.as_str())).collect();
        header("To", &to.join(",\r\n "));
        header("Subject", &self.subject.encoded());
        header("Date", &date(self.date));
        let id: String = self
            .id
            .chars()
            .filter(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_'))
            .collect();
        header("Message-ID", &format!("<{id}@{}>", self.from.domain()));
        // Nobody on holiday should answer (RFC 3834 §5).
        header("Auto-Submitted", "auto-generated");
        header("MIME-Version", "1.0");
        header("Content-Type", &format!("{}; charset=utf-8", self.content_type));
        header("Content-Transfer-Encoding", "quoted-printable");
        mail.push_str("\r\n");
        quoted_printable(&self.body, &mut mail);
        mail
    }
}

/// Encodes bytes in lines of at most 76 characters that end with CRLF. Line ends of any kind become CRLF.
fn quoted_printable(body: &[u8], into: &mut String) {
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n").replace('\r', "\n");
    for line in text.split('\n') {
        let bytes = line.as_bytes();
        let mut column = 0;
        for (index, byte) in bytes.iter().enumerate() {
            let last = index + 1 == bytes.len();
            // Blanks at the end of a line do not survive the journey.
            let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~')
                || (matches!(byte, b' ' | b'\t') && !last);
            let width = if plain { 1 } else { 3 };
            if column + width > LINE_CHARS_MAX - 1 {
                into.push_str("=\r\n");
                column = 0;
            }
            if plain {
                into.push(char::from(*byte));
            } else {
                into.push_str(&format!("={byte:02X}"));
            }
            column += width;
        }
        into.push_str("\r\n");
    }
}

/// `Sat, 21 Nov 2026 07:32:12 +0000`.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days from civil, backwards (H. Hinnant): years begin in March, so that the leap day is the last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let name = |names: &[&'static str], index: u64| {
        usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
    };
    format!(
        "{}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(subject: &str, body: &[u8]) -> String {
        let mail = Mail {
            from: Address::parse("posthouse@example.org").unwrap(),
            to: vec![Address::parse("ann@example.com").unwrap()],
            subject: HeaderText::parse(subject).unwrap(),
            id: "abc-1".to_owned(),
            date: 1_795_246_332,
            body: body.to_vec(),
            content_type: "text/plain",
        };
        mail.encoded()
    }

    fn body_of(mail: &str) -> &str {
        mail.split_once("\r\n\r\n").unwrap().1
    }

    #[test]
    fn addresses_follow_the_grammar() {
        for good in ["a@b.c", "first.last+tag@example.com", "o'neil@x-y.example", "a@localhost"] {
            assert_eq!(Address::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Address::parse("a@bücher.example").unwrap().domain(), "xn--bcher-kva.example");
        for bad in [
            "",
            "a",
            "@b.c",
            "a@",
            "a@b@c d",
            ".a@b.c",
            "a.@b.c",
            "a..b@c.d",
            "a b@c.d",
            "\"a b\"@c.d",
            "a@b.c\r\nRCPT TO:<x@y.z>",
            "a\r\n@b.c",
            "a\0@b.c",
            "<a@b.c>",
            "a@b.c>",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@-b.c",
            "a@b..c",
            "ä@b.c",
            "a@b.c SIZE=1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Address::parse(&format!("{}@b.c", "a".repeat(65))).is_err());
    }

    #[test]
    fn header_texts_have_no_line_ends() {
        for bad in ["a\r\nBcc: x@y.z", "a\nb", "a\rb", "a\0b", "a\u{85}b", "a\u{2028}b", "\u{1b}["]
        {
            assert_eq!(HeaderText::parse(bad), Err(MailError::Text), "{bad:?}");
        }
        assert!(HeaderText::parse(&"a".repeat(999)).is_err());
    }

    #[test]
    fn subjects_of_any_letters_and_length_are_encoded_in_short_lines() {
        let text = "Grüße ".repeat(50);
        let mail = mail(text.trim_end(), b"x");

        assert!(mail.contains("Subject: =?UTF-8?B?"));
        assert!(mail.split("\r\n").all(|line| line.len() <= 78), "{mail}");
        assert!(mail.is_ascii());
    }

    #[test]
    fn no_body_makes_a_bare_line_end_a_long_line_or_an_unencoded_byte() {
        let body = "a\nb\rc\r\nd \n.\n..\né=\u{0}\u{7f}".to_owned() + &"x".repeat(500);
        let mail = mail("s", body.as_bytes());

        let without = mail.replace("\r\n", "");
        assert!(!without.contains(['\r', '\n']));
        assert!(mail.split("\r\n").all(|line| line.len() <= 76));
        assert!(mail.is_ascii() && !mail.contains('\0'));
        assert!(body_of(&mail).starts_with("a\r\nb\r\nc\r\nd=20\r\n.\r\n..\r\n=C3=A9=3D=00=7F"));
    }

    #[test]
    fn a_mail_has_the_headers_that_make_it_welcome() {
        let mail = mail("hello", b"text");

        for line in [
            "From: <posthouse@example.org>",
            "To: <ann@example.com>",
            "Subject: hello",
            "Message-ID: <abc-1@example.org>",
            "MIME-Version: 1.0",
            "Content-Transfer-Encoding: quoted-printable",
        ] {
            assert!(mail.contains(&format!("{line}\r\n")), "{line}");
        }
        assert_eq!(body_of(&mail), "text\r\n");
    }

    #[test]
    fn dates_are_right_over_leap_days_and_years() {
        assert_eq!(date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 +0000");
        assert_eq!(date(1_795_246_332), "Sat, 21 Nov 2026 07:32:12 +0000");
        assert_eq!(date(4_107_542_400), "Mon, 1 Mar 2100 00:00:00 +0000");
    }
}
