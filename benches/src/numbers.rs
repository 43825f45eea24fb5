//! Numbers as people read them, and as JSON keeps them.

use crate::latency::Percentiles;

/// A count or size as a floating-point number.
#[allow(clippy::cast_precision_loss, reason = "counts and sizes far below 2^52")]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// To so many decimals.
pub fn rounded(number: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (number * scale).round() / scale
}

/// Of what there is no figure.
pub fn dash() -> String {
    "-".to_owned()
}

pub fn p50(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or_else(dash, |percentiles| short(percentiles.p50))
}

pub fn p99(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or_else(dash, |percentiles| short(percentiles.p99))
}

/// With a decimal if it is small.
pub fn short(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { grouped(number) }
}

/// How many times `base`.
pub fn times(number: f64, base: f64) -> String {
    if base > 0.0 { format!("{:.1}x", number / base) } else { dash() }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub fn grouped(number: f64) -> String {
    grouped_whole(number.round() as u64)
}

/// With commas between groups of three digits.
pub fn grouped_whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(0.4), "0");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1000.0), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
