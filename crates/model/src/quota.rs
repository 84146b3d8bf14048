//! How much a tenant or a user may have open at a time.
//!
//! In definitions a negative number takes a limit away and zero allows nothing.

/// Limits of a tenant; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantLimits {
    /// Client connections to the tenant.
    pub max_connections: Option<u64>,
    /// Queues of the tenant.
    pub max_queues: Option<u64>,
}

/// Limits of a user over all tenants; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserLimits {
    /// Connections of the user.
    pub max_connections: Option<u64>,
    /// Channels in all connections of the user.
    pub max_channels: Option<u64>,
}

/// There is no limit of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no limit `{0}`")]
pub struct UnknownLimit(pub Box<str>);

impl TenantLimits {
    /// Limits by their names in definitions: `max-connections`, `max-queues`.
    ///
    /// # Errors
    ///
    /// [`UnknownLimit`] for the first other name.
    pub fn of<'a>(limits: impl IntoIterator<Item = (&'a str, i64)>) -> Result<Self, UnknownLimit> {
        let mut all = Self::default();
        limits.into_iter().try_for_each(|(name, value)| all.set(name, value))?;
        Ok(all)
    }

    /// Changes one limit, or takes it away if `value` is negative.
    ///
    /// # Errors
    ///
    /// [`UnknownLimit`]; nothing has changed then.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), UnknownLimit> {
        let limit = match name {
            "max-connections" => &mut self.max_connections,
            "max-queues" => &mut self.max_queues,
            _ => return Err(UnknownLimit(name.into())),
        };
        *limit = u64::try_from(value).ok();
        Ok(())
    }

    /// The limits that are set, by their names in definitions.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named([("max-connections", self.max_connections), ("max-queues", self.max_queues)])
    }
}

impl UserLimits {
    /// Limits by their names in definitions: `max-connections`, `max-channels`.
    ///
    /// # Errors
    ///
    /// [`UnknownLimit`] for the first other name.
    pub fn of<'a>(limits: impl IntoIterator<Item = (&'a str, i64)>) -> Result<Self, UnknownLimit> {
        let mut all = Self::default();
        limits.into_iter().try_for_each(|(name, value)| all.set(name, value))?;
        Ok(all)
    }

    /// Changes one limit, or takes it away if `value` is negative.
    ///
    /// # Errors
    ///
    /// [`UnknownLimit`]; nothing has changed then.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), UnknownLimit> {
        let limit = match name {
            "max-connections" => &mut self.max_connections,
            "max-channels" => &mut self.max_channels,
            _ => return Err(UnknownLimit(name.into())),
        };
        *limit = u64::try_from(value).ok();
        Ok(())
    }

    /// The limits that are set, by their names in definitions.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named([("max-connections", self.max_connections), ("max-channels", self.max_channels)])
    }
}

fn named(limits: [(&'static str, Option<u64>); 2]) -> impl Iterator<Item = (&'static str, u64)> {
    limits.into_iter().filter_map(|(name, limit)| Some((name, limit?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_is_no_limit_and_zero_allows_nothing() {
        let mut limits = TenantLimits::of([("max-connections", 0), ("max-queues", 5)]).unwrap();
        limits.set("max-queues", -1).unwrap();

        assert_eq!(limits, TenantLimits { max_connections: Some(0), max_queues: None });
        assert_eq!(limits.iter().collect::<Vec<_>>(), [("max-connections", 0)]);
    }

    #[test]
    fn each_kind_knows_its_own_limits() {
        assert_eq!(UserLimits::of([("max-channels", 7)]).unwrap().max_channels, Some(7));
        assert_eq!(UserLimits::of([("max-queues", 7)]), Err(UnknownLimit("max-queues".into())));
        assert!(TenantLimits::of([("max-channels", 7)]).is_err());
    }
}
