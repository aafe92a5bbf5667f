//! Times in JSON: durations in seconds, moments in seconds since 1970 UTC.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, Serializer};

pub(super) mod seconds {
    use super::{Deserialize, Duration, Serializer};

    pub(in crate::process) fn serialize<S: Serializer>(
        time: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(in crate::process) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

pub(super) mod maybe_seconds {
    use super::{Deserialize, Duration, Serialize, Serializer};

    pub(in crate::process) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(in crate::process) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(serde::de::Error::custom)
    }
}

pub(super) mod since_1970 {
    use super::{Duration, Serializer, SystemTime, seconds};

    pub(in crate::process) fn serialize<S: Serializer>(
        at: &SystemTime,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        seconds::serialize(&at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), to)
    }

    pub(in crate::process) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<SystemTime, D::Error> {
        let since: Duration = seconds::deserialize(from)?;
        let at = SystemTime::UNIX_EPOCH.checked_add(since);
        at.ok_or_else(|| serde::de::Error::custom("a moment that is too far off"))
    }
}

#[cfg(feature = "schedule")]
pub(super) mod maybe_since_1970 {
    use super::{Duration, Serializer, SystemTime, maybe_seconds};

    pub(in crate::process) fn serialize<S: Serializer>(
        at: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let since = at.map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        maybe_seconds::serialize(&since, to)
    }

    pub(in crate::process) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let since: Option<Duration> = maybe_seconds::deserialize(from)?;
        let at = |since| SystemTime::UNIX_EPOCH.checked_add(since);
        let too_far = || serde::de::Error::custom("a moment that is too far off");
        since.map(|since| at(since).ok_or_else(too_far)).transpose()
    }
}
