//! Quantities of Kubernetes (`500m`, `1.5Gi`, `2e3`): parsed exactly, compared exactly.

use std::fmt;
use std::str::FromStr;

/// One unit (a core, a byte) in the steps that a quantity counts.
const NANO: u128 = 1_000_000_000;

/// An amount of a resource that is not negative, in steps of 10⁻⁹; finer ones are rounded up, as the cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u128);

/// A text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a quantity is a number such as '500m', '1.5', '2Gi' or '1e3', not negative")]
pub struct InvalidQuantity;

impl Quantity {
    /// Whole units (bytes of memory, cores), rounded up; the largest number if there are more.
    #[must_use]
    pub fn units(self) -> u64 {
        u64::try_from(self.0.div_ceil(NANO)).unwrap_or(u64::MAX)
    }

    /// Thousandths of a unit (millicores), rounded up; the largest number if there are more.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.div_ceil(NANO / 1000)).unwrap_or(u64::MAX)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let (number, suffix) = split(text.strip_prefix('+').unwrap_or(text));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // With at most 18 and 9 digits nothing below overflows but the whole part, which saturates.
        if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 255 {
            return Err(InvalidQuantity);
        }
        let (fraction, finer) = fraction.split_at_checked(9).unwrap_or((fraction, ""));
        if !finer.bytes().all(|c| c.is_ascii_digit()) {
            return Err(InvalidQuantity);
        }
        let digits =
            |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u128>().map_err(|_| InvalidQuantity) };
        let whole = digits(whole)?;
        let part = digits(fraction)? + u128::from(finer.bytes().any(|c| c != b'0'));
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| InvalidQuantity)?);
        // The value in steps is (whole + part / scale) * times / 10^divide.
        let (times, divide): (u128, u32) = match suffix {
            "" => (NANO, 0),
            "n" => (NANO, 9),
            "u" => (NANO, 6),
            "m" => (NANO, 3),
            "k" => (NANO * 1_000, 0),
            "M" => (NANO * 1_000_000, 0),
            "G" => (NANO * 1_000_000_000, 0),
            "T" => (NANO * 1_000_000_000_000, 0),
            "P" => (NANO * 1_000_000_000_000_000, 0),
            "E" => (NANO * 1_000_000_000_000_000_000, 0),
            "Ki" => (NANO << 10, 0),
            "Mi" => (NANO << 20, 0),
            "Gi" => (NANO << 30, 0),
            "Ti" => (NANO << 40, 0),
            "Pi" => (NANO << 50, 0),
            "Ei" => (NANO << 60, 0),
            other => exponent(other)?,
        };
        let steps = match divide {
            0 => whole.saturating_mul(times).saturating_add((part * times).div_ceil(scale)),
            divide => ((whole * scale + part) * times).div_ceil(scale * 10_u128.pow(divide)),
        };
        Ok(Self(steps))
    }
}

/// The leading digits and point, and what follows them.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// `e3`, `E-3`: what to multiply by, and the power of ten to divide by.
fn exponent(suffix: &str) -> Result<(u128, u32), InvalidQuantity> {
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(InvalidQuantity)?;
    let power: i32 = digits.parse().map_err(|_| InvalidQuantity)?;
    match power {
        0..=18 => Ok((NANO * 10_u128.pow(power.unsigned_abs()), 0)),
        -18..0 => Ok((NANO, power.unsigned_abs())),
        _ => Err(InvalidQuantity),
    }
}

impl fmt::Display for Quantity {
    /// In the shortest of whole units, thousandths and billionths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(NANO) {
            write!(f, "{}", self.0 / NANO)
        } else if self.0.is_multiple_of(NANO / 1000) {
            write!(f, "{}m", self.0 / (NANO / 1000))
        } else {
            write!(f, "{}n", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn suffixes_mean_what_they_mean_to_the_cluster() {
        assert_eq!(q("500m"), q("0.5"));
        assert_eq!(q("1Gi").units(), 1 << 30);
        assert_eq!(q("1.5Gi").units(), 3 << 29);
        assert_eq!(q("1e3"), q("1k"));
        assert_eq!(q("1E3"), q("1000"));
        assert_eq!(q("1E"), q("1e18"));
        assert_eq!(q("2e-3").millis(), 2);
        assert_eq!(q("1M"), q("1000k"));
        assert_eq!(q("+.5"), q("500000u"));
        assert_eq!(q("0.0000000001"), q("1n"), "rounded up");
        assert!(q("1G") < q("1Gi") && q("8Ei") > q("8E"));
        assert_eq!(q("1.50000000000000000000Ei"), q("1536Pi"));
        assert_eq!(q("250m").to_string(), "250m");
        assert_eq!(q("999999999999999999Ei").units(), u64::MAX);
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            ".",
            "-1",
            "1 Gi",
            "Gi",
            "1gi",
            "1.2.3",
            "1e",
            "1e99",
            "1mm",
            "\u{661}",
            "9999999999999999999",
            "1e+-1",
        ] {
            assert_eq!(bad.parse::<Quantity>(), Err(InvalidQuantity), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[0-9.]{0,40}[a-zA-Z0-9+-]{0,6}|\\PC*") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn text_form_round_trips(count in 0..10_u128.pow(15), unit in proptest::sample::select(vec![1, NANO / 1000, NANO])) {
            let quantity = Quantity(count * unit);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }

        #[test]
        fn order_is_that_of_the_numbers(a in 0_u32..1_000_000, b in 0_u32..1_000_000) {
            prop_assert_eq!(q(&format!("{a}m")).cmp(&q(&format!("{b}m"))), a.cmp(&b));
            prop_assert_eq!(q(&format!("{a}Ki")), q(&format!("{}", u64::from(a) * 1024)));
            prop_assert_eq!(q(&format!("{}.{:03}", a / 1000, a % 1000)), q(&format!("{a}m")));
        }
    }
}
