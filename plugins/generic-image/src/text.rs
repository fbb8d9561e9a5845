//! Values as text: the way Python writes them, since images were made for a server that handed over `str(value)`.

use serde_json::Value;

/// A text as it is, `True`, `False`, a number as Python writes it; none for null, lists and maps.
///
/// Whole numbers beyond 64 bits are floating-point numbers by the time they arrive here.
pub(crate) fn of_scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Number(number) if number.is_f64() => number.as_f64().map(of_float),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `repr(float)`: the shortest digits that round-trip, an exponent below 1e-4 and from 1e16 on.
fn of_float(number: f64) -> String {
    let plain = format!("{number:?}");
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return plain };
    let Ok(power) = exponent.parse::<i32>() else { return plain };
    if number == 0.0 || (-4..16).contains(&power) {
        let decimal = number.to_string();
        return if decimal.contains('.') { decimal } else { format!("{decimal}.0") };
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.unsigned_abs())
}

/// Whether this is a DNS label (RFC 1123), as names of containers and volumes are.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (1..=63).contains(&name.len()) && inner && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether this can be the name of an environment variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    !name.is_empty() && inner && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Whether this is a quantity of Kubernetes that is not negative. How much the policy allows the host knows.
pub(crate) fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (number, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let whole = number.split('.').next().unwrap_or_default();
    let is_number = number.bytes().any(|c| c.is_ascii_digit()) && number.matches('.').count() <= 1 && whole.len() <= 18;
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let is_exponent = || {
        suffix
            .strip_prefix(['e', 'E'])
            .is_some_and(|power| power.parse::<i8>().is_ok_and(|power| power.unsigned_abs() <= 18))
    };
    is_number && (suffixes.contains(&suffix) || is_exponent())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_written_as_python_writes_them() {
        let cases = [
            (json!("a b"), "a b"),
            (json!(true), "True"),
            (json!(false), "False"),
            (json!(1024), "1024"),
            (json!(-7), "-7"),
            (json!(18_446_744_073_709_551_615_u64), "18446744073709551615"),
            (json!(0.5), "0.5"),
            (json!(1.0), "1.0"),
            (json!(-0.0), "-0.0"),
            (json!(0.0001), "0.0001"),
            (json!(0.00001), "1e-05"),
            (json!(1.5e-7), "1.5e-07"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e+16"),
            (json!(1.25e100), "1.25e+100"),
            (json!(0.1), "0.1"),
            (json!(123456.789), "123456.789"),
        ];
        for (value, text) in cases {
            assert_eq!(of_scalar(&value).unwrap(), text);
        }
        for value in [json!(null), json!([1]), json!({})] {
            assert_eq!(of_scalar(&value), None);
        }
    }

    #[test]
    fn names_are_checked() {
        for name in ["a", "0-a", &"x".repeat(63)] {
            assert!(is_dns_label(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64)] {
            assert!(!is_dns_label(name), "{name}");
        }
        assert!(is_variable_name("_A9") && is_variable_name("a"));
        assert!(!is_variable_name("9A") && !is_variable_name("A-B") && !is_variable_name("") && !is_variable_name("Ä"));
    }

    #[test]
    fn quantities_are_told_from_other_texts() {
        for text in ["1", "+.5", "0.5", "500m", "1.5Gi", "1e3", "2E-3", "8E", "1e+16", "7."] {
            assert!(is_quantity(text), "{text}");
        }
        for text in [
            "",
            ".",
            "lots",
            "-1",
            "1 Gi",
            "1gi",
            "1.2.3",
            "1e",
            "1mm",
            "1e999",
            "1e20",
            "1\u{661}",
            "Gi",
            "1234567890123456789",
        ] {
            assert!(!is_quantity(text), "{text}");
        }
    }
}
