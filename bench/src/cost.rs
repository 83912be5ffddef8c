//! A cost, as the reports write it. Calls nothing.

use core::fmt;

/// What one operation costs, in hundredths of the counter's unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cost(pub u64);

impl Cost {
    /// `counts` shared by `operations`.
    pub const fn shared(counts: u64, operations: u64) -> Self {
        match counts.saturating_mul(100).checked_div(operations) {
            Some(each) => Self(each),
            None => Self(0),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if part.len() != 2 || !digits(whole) || !digits(part) {
            return None;
        }
        let whole = whole.parse::<u64>().ok()?.checked_mul(100)?;
        Some(Self(whole.checked_add(part.parse().ok()?)?))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn what_is_written_is_read() {
        for (cost, text) in [(Cost(0), "0.00"), (Cost(62_805), "628.05"), (Cost(7), "0.07")] {
            assert_eq!(cost.to_string(), text);
            assert_eq!(Cost::parse(text), Some(cost));
        }
        for text in ["", "1", "1.", ".5", "1.5", "1.505", "-1.00", "+1.00", "1.+5", "1.00 "] {
            assert_eq!(Cost::parse(text), None, "{text}");
        }
        assert_eq!(Cost::shared(1001, 4), Cost(25_025));
        assert_eq!(Cost::shared(1, 0), Cost(0));
    }
}
