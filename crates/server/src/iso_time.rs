//! Times as Zaqar and Keystone write them: `YYYY-MM-DDTHH:MM:SS`, in UTC, and the forms of ISO 8601 that they read.

use model::Timestamp;

const DAY_SECS: i64 = 86_400;

/// `YYYY-MM-DDTHH:MM:SS`, in UTC, without its fraction of a second. Years after 9999 are written with five digits.
#[must_use]
pub fn format(time: Timestamp) -> String {
    let secs = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    let (year, month, day) = civil(secs.div_euclid(DAY_SECS));
    let of_day = secs.rem_euclid(DAY_SECS);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Reads `YYYY-MM-DD`, optionally `T` or a space and `HH:MM`, optionally `:SS` and a fraction, optionally `Z` or an
/// offset (`+HH`, `+HHMM`, `+HH:MM`). Without an offset it is UTC. `None` for everything else and before 1970.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.find(['T', ' ']) {
        Some(at) => (text.get(..at)?, text.get(at + 1..)?),
        None => (text, "00:00:00"),
    };
    let (clock, offset_secs) = match time.find(['Z', '+', '-']) {
        Some(at) => (time.get(..at)?, offset(time.get(at..)?)?),
        None => (time, 0),
    };
    let mut parts = clock.split(':');
    let hour = digits(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let (second, milliseconds) = match parts.next() {
        None => (0, 0),
        Some(text) => second_and_fraction(text)?,
    };
    if parts.next().is_some() {
        return None;
    }
    let secs = days(date)? * DAY_SECS + hour * 3600 + minute * 60 + second - offset_secs;
    u64::try_from(secs * 1000 + milliseconds).ok().map(Timestamp)
}

fn second_and_fraction(text: &str) -> Option<(i64, i64)> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let second = digits(whole, 2).filter(|second| *second < 60)?;
    let good = !fraction.is_empty() && fraction.len() <= 9;
    let fraction = digits(fraction, fraction.len()).filter(|_| good).map(|_| fraction)?;
    Some((second, digits(&format!("{fraction:0<3}").chars().take(3).collect::<String>(), 3)?))
}

fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let text = text.get(1..)?;
    let (hours, minutes) = match (text.split_once(':'), text.len()) {
        (Some((hours, minutes)), _) => (hours, minutes),
        (None, 2) => (text, "00"),
        (None, _) => (text.get(..2)?, text.get(2..)?),
    };
    let hours = digits(hours, 2).filter(|hours| *hours < 24)?;
    let minutes = digits(minutes, 2).filter(|minutes| *minutes < 60)?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Days from 1970-01-01 to a date.
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = digits(parts.next()?, 2).filter(|day| *day >= 1)?;
    if parts.next().is_some() {
        return None;
    }
    // March is the first month, so that the leap day is the last day of a year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    // The 30th of February comes back as another day.
    (civil(days) == (year, month, day)).then_some(days)
}

/// The date (year, month, day) that lies so many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let all = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_and_read_back() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_795_247_865, "2026-11-21T07:57:45"),
            (253_402_300_799, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(format(Timestamp(secs * 1000)), text);
            assert_eq!(parse(text), Some(Timestamp(secs * 1000)));
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097_u64 {
            let time = Timestamp(day * 86_400_000);
            assert_eq!(parse(&format(time)), Some(time), "{day}");
        }
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        let noon = parse("2026-11-21T12:00:00Z");

        assert!(noon.is_some());
        for text in [
            "2026-11-21T14:00:00+02:00",
            "2026-11-21T14:00:00+0200",
            "2026-11-21 14:00+02",
            "2026-11-21T09:30:00-02:30",
            "2026-11-21T12:00:00.000000Z",
        ] {
            assert_eq!(parse(text), noon, "{text}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.5"), Some(Timestamp(500)));
        assert_eq!(parse("1970-01-02"), Some(Timestamp(86_400_000)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "tomorrow",
            "2026-02-29T00:00:00",
            "2026-13-01T00:00:00",
            "2026-00-01T00:00:00",
            "2026-01-01T24:00:00",
            "2026-01-01T00:60:00",
            "2026-01-01T00:00:60",
            "2026-01-01T00:00:00+25:00",
            "2026-01-01T00:00:00.",
            "2026-01-01T00",
            "2026-01-01T00:00:00:00",
            "26-01-01T00:00:00",
            "1969-12-31T23:59:59",
            "2026-1-1T00:00:00",
            "²026-01-01T00:00:00",
            "1767225600",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
