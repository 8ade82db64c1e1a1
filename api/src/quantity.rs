//! Sizes, as Kubernetes writes them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A Kubernetes quantity (`2Gi`, `500M`, `250m`, `1073741824`), kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// A text that is not a quantity, or one that does not fit the unit that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity: write a number with an optional suffix, for example 512Mi, 20Gi or 500m")]
pub struct QuantityError(pub String);

impl Quantity {
    /// From a number of bytes, in the largest binary unit that divides it.
    pub fn from_bytes(bytes: u64) -> Self {
        for (shift, suffix) in [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if bytes != 0 && bytes.is_multiple_of(1 << shift) {
                return Self(format!("{}{suffix}", bytes >> shift));
            }
        }
        Self(bytes.to_string())
    }

    /// A number of bytes for people: in the largest binary unit that it reaches, with one digit after the point below
    /// ten, such as `9.5Gi` and `62Gi`.
    pub fn approximately(bytes: u64) -> String {
        for (shift, suffix) in [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            let unit = 1_u64 << shift;
            if bytes >= unit {
                let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
                return match (tenths / 10, tenths % 10) {
                    (whole, tenth) if whole < 10 && tenth > 0 => format!("{whole}.{tenth}{suffix}"),
                    (whole, tenth) => format!("{}{suffix}", if whole < 10 { whole } else { whole + tenth / 5 }),
                };
            }
        }
        bytes.to_string()
    }

    /// The value in whole units (bytes for a size), rounded up as Kubernetes does.
    pub fn bytes(&self) -> Result<u64, QuantityError> {
        u64::try_from(self.thousandths()?.div_ceil(1000)).map_err(|_| self.error())
    }

    /// The value in thousandths of a unit (millicores for a CPU request), rounded up.
    pub fn millis(&self) -> Result<u64, QuantityError> {
        u64::try_from(self.thousandths()?).map_err(|_| self.error())
    }

    fn error(&self) -> QuantityError {
        QuantityError(self.0.clone())
    }

    fn thousandths(&self) -> Result<u128, QuantityError> {
        let text = self.0.trim();
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        // (multiplier of thousandths, divisor): "m" is 1, no suffix is 1000.
        let (times, over): (u128, u128) = match suffix {
            "n" => (1, 1_000_000),
            "u" => (1, 1_000),
            "m" => (1, 1),
            "" => (1_000, 1),
            "k" => (1_000_000, 1),
            "M" => (1_000_000_000, 1),
            "G" => (1_000_000_000_000, 1),
            "T" => (1_000_000_000_000_000, 1),
            "P" => (1_000_000_000_000_000_000, 1),
            "E" => (1_000_000_000_000_000_000_000, 1),
            "Ki" => (1_000 << 10, 1),
            "Mi" => (1_000 << 20, 1),
            "Gi" => (1_000 << 30, 1),
            "Ti" => (1_000 << 40, 1),
            "Pi" => (1_000 << 50, 1),
            "Ei" => (1_000 << 60, 1),
            exponent => match exponent.strip_prefix(['e', 'E']).map(str::parse::<u32>) {
                Some(Ok(e)) if e <= 21 => (1_000 * 10u128.pow(e), 1),
                _ => return Err(self.error()),
            },
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 30 {
            return Err(self.error());
        }
        let mantissa: u128 = format!("{whole}{fraction}").parse().map_err(|_| self.error())?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| self.error())?);
        let value = mantissa.checked_mul(times).ok_or_else(|| self.error())?;
        Ok(value.div_ceil(over.checked_mul(scale).ok_or_else(|| self.error())?))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        }))
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A plain number is a quantity too, as in core Kubernetes.
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][0-9]+))?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn sizes_for_people_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1 << 30, "1Gi"),
            ((19 << 30) / 2, "9.5Gi"),
            ((10 << 30) - 1, "10Gi"),
            ((125 << 30) / 2, "63Gi"),
            (24_684_084 << 10, "24Gi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(Quantity::approximately(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("1k", 1000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            ("2Gi", 2 << 30),
            ("128974848000m", 128_974_848),
            ("1e3", 1000),
            ("7Ei", 7 << 60),
            ("1m", 1),
            (".5Ki", 512),
        ] {
            assert_eq!(q(text).bytes(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_name() {
        for text in
            ["", "Gi", "-1", "1GiB", "1 Gi", "1.2.3", "16Ei", "1e99", "99999999999999999999999999999999999", "١"]
        {
            assert_eq!(q(text).bytes(), Err(QuantityError(text.into())), "{text}");
        }
    }

    #[test]
    fn millicores() {
        assert_eq!(q("250m").millis(), Ok(250));
        assert_eq!(q("1.5").millis(), Ok(1500));
        assert_eq!(q("2").millis(), Ok(2000));
    }

    proptest! {
        #[test]
        fn bytes_survive_writing_and_reading(bytes in any::<u64>()) {
            prop_assert_eq!(Quantity::from_bytes(bytes).bytes(), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = q(&text).bytes();
        }
    }
}
