//! What a token of ours or a JWT is good for, and the caller that it makes of a request.

use model::Timestamp;

use super::Caller;

/// The project name that stands for all.
const EVERYWHERE: &str = "*";

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Where; `*` is everywhere.
    pub projects: Vec<Box<str>>,
    /// Who.
    pub user: Option<Box<str>>,
    /// For policies.
    pub roles: Vec<Box<str>>,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// Why a good token does not let a request in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It is for other projects.
    Foreign,
    /// It is for several, and the request does not say which.
    Unnamed,
}

impl Grant {
    /// The caller in the project that the request names, or in the only one that there is.
    ///
    /// # Errors
    ///
    /// [`Misfit`].
    pub fn caller(&self, wanted: Option<&str>) -> Result<Caller, Misfit> {
        let wanted = wanted.filter(|project| !project.is_empty());
        let project = match (wanted, self.projects.as_slice()) {
            (Some(wanted), projects) => {
                let good = projects.iter().any(|own| **own == *wanted || **own == *EVERYWHERE);
                good.then_some(wanted).ok_or(Misfit::Foreign)?
            }
            (None, [only]) if **only != *EVERYWHERE => only,
            (None, _) => return Err(Misfit::Unnamed),
        };
        Ok(Caller {
            project: project.into(),
            user: self.user.clone(),
            roles: self.roles.clone(),
            expires: self.expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(projects: &[&str], wanted: Option<&str>) -> Result<String, Misfit> {
        let projects = projects.iter().map(|&project| project.into()).collect();
        let grant = Grant { projects, user: None, roles: Vec::new(), expires: None };
        grant.caller(wanted).map(|caller| caller.project.into())
    }

    #[test]
    fn the_header_chooses_among_the_tokens_projects_and_adds_none() {
        assert_eq!(project(&["a"], None).as_deref(), Ok("a"));
        assert_eq!(project(&["a"], Some("")).as_deref(), Ok("a"));
        assert_eq!(project(&["a", "b"], Some("b")).as_deref(), Ok("b"));
        assert_eq!(project(&["*"], Some("any")).as_deref(), Ok("any"));
        assert_eq!(project(&["a", "b"], Some("c")), Err(Misfit::Foreign));
        assert_eq!(project(&["a"], Some("*")), Err(Misfit::Foreign));
        assert_eq!(project(&["a", "b"], None), Err(Misfit::Unnamed));
        assert_eq!(project(&["*"], None), Err(Misfit::Unnamed));
        assert_eq!(project(&[], None), Err(Misfit::Unnamed));
    }
}
