//! What requests ask for, read from documents and checked against the limits. Pure.

mod claim;
mod message;
mod page;
mod pool;
mod purge;
mod share;
mod subscription;

pub(crate) use claim::{ClaimTimes, For, read_claim};
pub(crate) use message::{NewMessage, check_post_size, read_messages};
pub(crate) use page::{Bound, limit_of};
pub(crate) use pool::{PoolChange, read_flavor, read_pool, read_pool_change, read_pool_list};
pub(crate) use purge::{Purge, read_purge};
pub(crate) use share::read_share;
pub(crate) use subscription::{
    SubscriptionChange, read_confirmation, read_subscription, read_terms, read_update,
};

use super::json::{Kind, Raw};
use super::problem::Problem;

/// A whole number in a member; `null` is not one.
fn whole(object: Raw<'_>, name: &str) -> Result<Option<i64>, Problem> {
    let whole = |value: Raw<'_>| value.integer().ok_or_else(|| Problem::field_type(name, "int"));
    object.member(name).map(whole).transpose()
}

/// An object, or the refusal of an array.
fn object(document: Raw<'_>) -> Result<Raw<'_>, Problem> {
    match document.kind() {
        Kind::Object => Ok(document),
        _ => Err(Problem::document_type()),
    }
}
