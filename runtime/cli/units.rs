//! Sizes, durations and moments, as people write them.

use std::time::Duration;

use lapidary::rusqlite::Connection;

use crate::failure::{Exit, Failure, Outcome};

/// Bytes in a unit of 1,024, three digits of it.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `1,234 pages`, `1 page`.
pub(crate) fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", indicatif::HumanCount(number))
}

/// Reads `10MiB`, `10M`, `512`: units of 1,024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("give a size like 512, 64KiB, 100MiB or 2GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "give a size like 100MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than can be counted".to_owned())
}

/// Reads `90s`, `30m`, `12h`, `7d`.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("give an age like 90s, 30m, 12h or 7d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "give an age like 12h or 7d".to_owned())?;
    let seconds = number.checked_mul(seconds).ok_or("that is more than can be counted")?;
    Ok(Duration::from_secs(seconds))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// A moment in UTC, as SQLite writes it, to the millisecond.
pub(crate) fn moment(wall_ms: u64) -> Outcome<String> {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')";
    let text = Connection::open_in_memory()?.query_row(sql, [ms], |row| row.get(0));
    Ok(text?)
}

/// Milliseconds since the Unix epoch of a moment that SQLite's date functions can read.
pub(crate) fn parse_moment(text: &str) -> Outcome<u64> {
    let sql = "SELECT CAST(round(unixepoch(?1, 'subsec') * 1000) AS INTEGER)";
    let read =
        Connection::open_in_memory()?.query_row(sql, [text], |row| row.get::<_, Option<i64>>(0))?;
    read.and_then(|ms| u64::try_from(ms).ok()).ok_or_else(|| {
        let words = "is no moment; give one like '2026-05-01 12:30' (UTC), \
                     '2026-05-01T12:30:00+02:00' or now";
        Failure::new(Exit::Usage, format!("{text:?} {words}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn sizes_and_ages() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_size("2 gb"), Ok(2 << 30));
        assert!(
            parse_size("ten").is_err() && parse_size("10X").is_err() && parse_size("").is_err()
        );
        assert!(parse_size("99999999999999999T").is_err());
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(604_800)));
        assert!(parse_age("7").is_err() && parse_age("d").is_err());
    }

    #[test]
    fn moments_there_and_back() {
        let text = moment(1_777_636_800_123).unwrap();
        assert_eq!(text, "2026-05-01T12:00:00.123Z");
        assert_eq!(parse_moment(&text).unwrap(), 1_777_636_800_123);
        assert_eq!(parse_moment("2026-05-01T12:00:00+02:00").unwrap(), 1_777_629_600_000);
        assert_eq!(parse_moment("yesterday").unwrap_err().exit, Exit::Usage);
    }
}
