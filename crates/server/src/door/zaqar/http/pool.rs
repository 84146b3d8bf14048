//! Requests about pools and flavors.

use broker::PoolDefinition;
use hyper::StatusCode;
use hyper::header::{CONTENT_LOCATION, HeaderValue};

use super::answer::{self, Answer};
use super::body::{Body, Unread};
use super::handle::{Handled, read_other};
use super::service::{Admitted, Service};
use super::write;
use crate::door::zaqar::json::{self, Flaw, Raw};
use crate::door::zaqar::operation::{
    Detail, Flavor, UNABLE_TO_CREATE, flavor_members, pool_members,
};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::query::{Query, encode};
use crate::door::zaqar::request;
use crate::door::zaqar::route::Version;

impl Service {
    pub(super) fn pool_list(&self, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let detailed = query.boolean("detailed")?.unwrap_or(false);
        let (pools, limit) =
            self.operations.pools(query.text("marker"), query.integer("limit")?)?;
        let last = pools.last().map(|pool| &*pool.name);
        let page = write::definitions("pools", request.path, last, limit, detailed, |out| {
            json::write::list(out, &pools, |out, pool| {
                let href = below(request.path, &pool.name);
                write_pool(out, &href, pool, Detail::of(detailed));
            });
        });
        Ok(with_content_location(answer::json(StatusCode::OK, page), request))
    }

    pub(super) async fn pool_put(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let pool = request::read_pool(definition(&body)?, &[])?;
        let done = self.operations.put_pool(request.name(), &pool)?;
        self.operations.durable(done).await?;
        Ok(answer::located(answer::empty(StatusCode::CREATED), request.path_bytes()))
    }

    pub(super) fn pool_get(&self, request: &Admitted<'_>) -> Handled {
        let detailed = Query::parse(request.query).boolean("detailed")?.unwrap_or(false);
        let pool = self.operations.pool(request.name())?;
        Ok(one_pool(request, &pool, Detail::of(detailed)))
    }

    pub(super) async fn pool_patch(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let change = request::read_pool_change(definition(&body)?)?;
        let done = self.operations.patch_pool(request.name(), change)?;
        self.operations.durable(done).await?;
        match request.version {
            Version::V1 => Ok(answer::empty(StatusCode::NO_CONTENT)),
            Version::V2 => {
                let pool = self.operations.pool(request.name())?;
                Ok(one_pool(request, &pool, Detail::Brief))
            }
        }
    }

    pub(super) async fn pool_delete(&self, request: &Admitted<'_>) -> Handled {
        let done = self.operations.delete_pool(request.name())?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    pub(super) fn flavor_list(&self, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let detailed = query.boolean("detailed")?.unwrap_or(false);
        let (flavors, limit) =
            self.operations.flavors(query.text("marker"), query.integer("limit")?)?;
        let last = flavors.last().map(|flavor| &*flavor.name);
        let page = write::definitions("flavors", request.path, last, limit, detailed, |out| {
            json::write::list(out, &flavors, |out, flavor| {
                let href = below(request.path, &flavor.name);
                write_flavor(out, &href, flavor, Detail::of(detailed));
            });
        });
        Ok(with_content_location(answer::json(StatusCode::OK, page), request))
    }

    pub(super) async fn flavor_put(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let pools = request::read_flavor(definition(&body)?, &[])?;
        match self.operations.put_flavor(request.name(), &pools) {
            Ok(done) => {
                self.operations.durable(done).await?;
                Ok(answer::located(answer::empty(StatusCode::CREATED), request.path_bytes()))
            }
            Err(problem) => refused_flavor(request, problem),
        }
    }

    pub(super) fn flavor_get(&self, request: &Admitted<'_>) -> Handled {
        let flavor = self.operations.flavor(request.name())?;
        Ok(one_flavor(request, &flavor))
    }

    pub(super) async fn flavor_patch(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let Some(pools) = request::read_pool_list(definition(&body)?)? else {
            return Err(Problem::body("`pool_list` needs to be specified"));
        };
        let name = request.name();
        match self.operations.patch_flavor(name, &pools) {
            Ok(done) => self.operations.durable(done).await?,
            Err(problem) => return refused_flavor(request, problem),
        }
        let flavor = self.operations.flavor(name)?;
        Ok(one_flavor(request, &flavor))
    }

    pub(super) async fn flavor_delete(&self, request: &Admitted<'_>) -> Handled {
        let done = self.operations.delete_flavor(request.name())?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }
}

/// The document of a definition; there is another text for what is none than elsewhere.
fn definition(body: &Body) -> Result<Raw<'_>, Problem> {
    match body.optional_document() {
        Ok(Some(document)) => Ok(document),
        Err(problem) if problem != Problem::unparsable(Flaw::Malformed) => Err(problem),
        Ok(None) | Err(_) => Err(Problem::body("JSON could not be parsed.")),
    }
}

fn with_content_location(mut answer: Answer, request: &Admitted<'_>) -> Answer {
    let mut location = request.path.to_owned();
    if !request.query.is_empty() {
        location.push('?');
        location.push_str(request.query);
    }
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(CONTENT_LOCATION, location);
    }
    answer
}

/// Where it would have been stands in the answer, as in Zaqar.
fn refused_flavor(request: &Admitted<'_>, problem: Problem) -> Handled {
    if problem.title != UNABLE_TO_CREATE {
        return Err(problem);
    }
    Ok(answer::located(answer::problem(&problem), request.path_bytes()))
}

fn one_pool(request: &Admitted<'_>, pool: &PoolDefinition, detail: Detail) -> Answer {
    let mut out = Vec::with_capacity(256);
    write_pool(&mut out, request.path, pool, detail);
    answer::json(StatusCode::OK, out)
}

fn one_flavor(request: &Admitted<'_>, flavor: &Flavor) -> Answer {
    let mut out = Vec::with_capacity(256);
    write_flavor(&mut out, request.path, flavor, Detail::Full);
    answer::json(StatusCode::OK, out)
}

fn write_pool(out: &mut Vec<u8>, href: &str, pool: &PoolDefinition, detail: Detail) {
    begin(out, href);
    pool_members(out, pool, detail);
    out.push(b'}');
}

fn write_flavor(out: &mut Vec<u8>, href: &str, flavor: &Flavor, detail: Detail) {
    begin(out, href);
    flavor_members(out, flavor, detail);
    out.push(b'}');
}

fn begin(out: &mut Vec<u8>, href: &str) {
    out.extend_from_slice(b"{\"href\":");
    json::write::string(out, href);
    out.push(b',');
}

/// The path of a definition in its list.
fn below(path: &str, name: &str) -> String {
    let mut out = path.as_bytes().to_vec();
    out.push(b'/');
    encode(&mut out, name);
    String::from_utf8_lossy(&out).into_owned()
}
