//! The actions on pools and flavors.
//!
//! Zaqar has them in its schema and answers none. Their members are those of HTTP's bodies; answers are those of HTTP
//! without paths. A flavor may name one pool as `pool_name`, as Zaqar's schema has it.

use std::borrow::Cow;

use super::action::Action;
use super::envelope::Answer;
use super::perform::{Asked, Performed, reply};
use super::show;
use crate::door::zaqar::json::Raw;
use crate::door::zaqar::operation::Detail;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request;

/// Does what a request about pools or flavors asks for.
///
/// # Errors
///
/// What the operation refuses, and 404 where there are no pools or nobody may ask for them.
pub(super) fn perform(asked: &Asked<'_>) -> Performed {
    if !asked.shared.admin_mode || !asked.operations().limits().pooling {
        return Err(Problem::bare(404, "404 Not Found"));
    }
    match asked.action {
        Action::PoolList => asked.pool_list(),
        Action::PoolCreate => asked.pool_create(),
        Action::PoolUpdate => asked.pool_update(),
        Action::PoolGet => asked.pool_get(),
        Action::PoolDelete => asked.pool_delete(),
        Action::FlavorList => asked.flavor_list(),
        Action::FlavorCreate => asked.flavor_create(),
        Action::FlavorUpdate => asked.flavor_update(),
        Action::FlavorGet => asked.flavor_get(),
        _ => asked.flavor_delete(),
    }
}

impl<'a> Asked<'a> {
    fn detail(&self) -> Detail {
        Detail::of(self.boolean("detailed"))
    }

    fn body(&self) -> Result<Raw<'a>, Problem> {
        self.request.body.ok_or_else(Problem::document_type)
    }

    fn marker(&self) -> Cow<'a, str> {
        self.request.text("marker")
    }

    fn pool_list(&self) -> Performed {
        let (pools, _) = self.operations().pools(Some(&*self.marker()), self.integer("limit"))?;
        Ok(Answer::new(200, show::pools(&pools, self.detail())).into())
    }

    fn pool_create(&self) -> Performed {
        let pool = request::read_pool(self.body()?, &["pool_name"])?;
        let name = self.request.text("pool_name");
        let done = self.operations().put_pool(&name, &pool)?;
        Ok(reply(done, |()| Answer::text(201, &format!("Pool {name} created."))))
    }

    fn pool_update(&self) -> Performed {
        let change = request::read_pool_change(self.body()?)?;
        let name = self.request.text("pool_name");
        let done = self.operations().patch_pool(&name, change)?;
        let pool = self.operations().pool(&name)?;
        Ok(reply(done, |()| Answer::new(200, show::pool(&pool, Detail::Brief))))
    }

    fn pool_get(&self) -> Performed {
        let pool = self.operations().pool(&self.request.text("pool_name"))?;
        Ok(Answer::new(200, show::pool(&pool, self.detail())).into())
    }

    fn pool_delete(&self) -> Performed {
        let name = self.request.text("pool_name");
        let done = self.operations().delete_pool(&name)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Pool {name} removed."))))
    }

    fn flavor_list(&self) -> Performed {
        let (flavors, _) =
            self.operations().flavors(Some(&*self.marker()), self.integer("limit"))?;
        Ok(Answer::new(200, show::flavors(&flavors, self.detail())).into())
    }

    fn flavor_create(&self) -> Performed {
        let pools = match self.one_pool() {
            Some(pools) => pools,
            None => request::read_flavor(self.body()?, &["flavor_name"])?,
        };
        let name = self.request.text("flavor_name");
        let done = self.operations().put_flavor(&name, &pools)?;
        Ok(reply(done, |()| Answer::text(201, &format!("Flavor {name} created."))))
    }

    fn flavor_update(&self) -> Performed {
        let pools = match self.one_pool() {
            Some(pools) => Some(pools),
            None => request::read_pool_list(self.body()?)?,
        };
        let pools = pools.ok_or_else(|| Problem::body("`pool_list` needs to be specified"))?;
        let name = self.request.text("flavor_name");
        let done = self.operations().patch_flavor(&name, &pools)?;
        let flavor = self.operations().flavor(&name)?;
        Ok(reply(done, |()| Answer::new(200, show::flavor(&flavor, Detail::Full))))
    }

    fn flavor_get(&self) -> Performed {
        let flavor = self.operations().flavor(&self.request.text("flavor_name"))?;
        Ok(Answer::new(200, show::flavor(&flavor, Detail::Full)).into())
    }

    fn flavor_delete(&self) -> Performed {
        let name = self.request.text("flavor_name");
        let done = self.operations().delete_flavor(&name)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Flavor {name} removed."))))
    }

    /// The pool of a flavor that has one.
    fn one_pool(&self) -> Option<Vec<String>> {
        let name = self.request.member("pool_name").and_then(Raw::string)?;
        self.request.member("pool_list").is_none().then(|| vec![name.into_owned()])
    }
}
