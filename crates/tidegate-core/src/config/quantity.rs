//! Durations, sizes and rates as people write them: one number and one unit, with one strict parser for YAML and JSON.

use std::{fmt, str::FromStr, time::Duration};

use crate::fault::Fault;

/// A duration: one whole number and one unit of `ms`, `s`, `m`, `h`, `d`, such as `"30s"` or `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Duration);

/// A size: one whole number and one unit of `B`, `KiB`, `MiB`, `GiB`, such as `"64MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

/// A rate: a whole number per `s`, `m` or `h`, such as `"50/s"` or `"10/m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateText {
    /// How many.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const RATE_UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

impl Time {
    /// Makes a duration of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Makes a duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Returns the duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Tells whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl Bytes {
    /// Makes a size.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        time.0
    }
}

/// Splits `text` into its number and the factor of its unit; none when either is not there or the product is too large.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Returns the largest unit that divides `amount`, so that what is written is as short as what was read.
fn unit_of(amount: u64, units: &'static [(&'static str, u64)]) -> (u64, &'static str) {
    let smallest = units.first().map_or("", |(name, _)| name);
    let exact = units.iter().rev().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    exact.map_or((amount, smallest), |(name, factor)| (amount / factor, name))
}

impl FromStr for Time {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let wrong = || {
            Fault::invalid(format!("{text:?} is not a duration such as \"500ms\", \"30s\", \"5m\", \"12h\" or \"7d\""))
        };
        scaled(text, &TIME_UNITS).map(Self::from_millis).ok_or_else(wrong)
    }
}

impl FromStr for Bytes {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let wrong =
            || Fault::invalid(format!("{text:?} is not a size such as \"512B\", \"64KiB\", \"64MiB\" or \"2GiB\""));
        scaled(text, &SIZE_UNITS).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for RateText {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let parse = || {
            let (count, unit) = text.split_once('/')?;
            let named =
                RATE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| Duration::from_secs(*seconds));
            let per = named.or_else(|| unit.parse::<Time>().ok().map(Time::get)).filter(|per| !per.is_zero())?;
            let digits = count.bytes().all(|byte| byte.is_ascii_digit());
            let count = count.parse().ok().filter(|count| digits && *count > 0)?;
            Some(Self { count, per })
        };
        parse()
            .ok_or_else(|| Fault::invalid(format!("{text:?} is not a rate such as \"50/s\", \"10/m\" or \"20/10s\"")))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        let (count, unit) = unit_of(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS);
        write!(f, "{count}{unit}")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = unit_of(self.0, &SIZE_UNITS);
        write!(f, "{count}{unit}")
    }
}

impl fmt::Display for RateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RATE_UNITS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == self.per) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.count),
            None => write!(f, "{}/{}", self.count, Time(self.per)),
        }
    }
}

macro_rules! as_text {
    ($name:ident, $schema:literal, $pattern:literal, [$($example:literal),+]) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "title": $schema, "pattern": $pattern, "examples": [$($example),+] })
            }
        }
    };
}

as_text!(Time, "duration", "^[0-9]+(ms|s|m|h|d)$", ["500ms", "30s", "7d"]);
as_text!(Bytes, "size", "^[0-9]+(B|KiB|MiB|GiB)$", ["64KiB", "64MiB"]);
as_text!(RateText, "rate", "^[0-9]+/(s|m|h|[0-9]+(ms|s|m|h|d))$", ["50/s", "10/m", "20/10s"]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show_the_shortest_form() {
        let check = |text: &str, millis: u64, shown: &str| {
            let time: Time = text.parse().unwrap();
            assert_eq!(time, Time::from_millis(millis), "{text}");
            assert_eq!(time.to_string(), shown);
            assert_eq!(shown.parse::<Time>().unwrap(), time);
        };
        check("500ms", 500, "500ms");
        check("1000ms", 1000, "1s");
        check("90s", 90_000, "90s");
        check("24h", 86_400_000, "1d");
        check("0s", 0, "0s");
        for bad in [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1S",
            "1h30m",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(bad.parse::<Time>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_read_and_show_the_shortest_form() {
        let check = |text: &str, bytes: u64, shown: &str| {
            let size: Bytes = text.parse().unwrap();
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, shown), "{text}");
        };
        check("64MiB", 64 << 20, "64MiB");
        check("2048KiB", 2 << 20, "2MiB");
        check("1000B", 1000, "1000B");
        check("0B", 0, "0B");
        for bad in ["", "64", "64MB", "64mib", "1.5GiB", "1TiB", "18446744073709551615GiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_read_and_show_themselves() {
        let rate: RateText = "10/m".parse().unwrap();
        assert_eq!((rate.count, rate.per), (10, Duration::from_secs(60)));
        assert_eq!(rate.to_string(), "10/m");
        for (text, shown) in [("20/1s", "20/s"), ("20/10s", "20/10s"), ("1/250ms", "1/250ms"), ("3/60m", "3/h")] {
            assert_eq!(text.parse::<RateText>().unwrap().to_string(), shown);
        }
        for bad in ["", "5/0s", "5/10", "10", "10/", "/s", "0/s", "-1/s", "+1/s", "1/d", "1.5/s", "10/s/s", "10 / s"] {
            assert!(bad.parse::<RateText>().is_err(), "{bad:?}");
        }
    }
}
