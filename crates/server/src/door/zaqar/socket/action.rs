//! The one table of what can be asked over a WebSocket, and which members each request must have.

use super::envelope::Request;
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::policy::Rule;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Authenticate,
    HomeDocument,
    Health,
    Ping,
    QueueList,
    QueueCreate,
    QueueGet,
    QueueStats,
    QueueDelete,
    QueuePurge,
    MessagePost,
    MessageList,
    MessageGet,
    MessageGetMany,
    MessageDelete,
    MessageDeleteMany,
    ClaimCreate,
    ClaimGet,
    ClaimUpdate,
    ClaimDelete,
    SubscriptionCreate,
    SubscriptionList,
    SubscriptionGet,
    SubscriptionDelete,
    SubscriptionAck,
    PoolList,
    PoolCreate,
    PoolUpdate,
    PoolGet,
    PoolDelete,
    FlavorList,
    FlavorCreate,
    FlavorUpdate,
    FlavorGet,
    FlavorDelete,
}

/// What a request says of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// `X-Project-ID`.
    Project,
    /// `Client-ID` and `X-Project-ID`.
    Client,
    /// `X-Project-ID` and `X-Auth-Token`.
    Token,
}

/// What a member must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Text,
    Integer,
    Bool,
    List,
    Object,
}

/// One action's form, and who may ask for it.
#[derive(Debug)]
pub(crate) struct Form {
    name: &'static str,
    pub(crate) action: Action,
    /// `None` is everybody who was let in.
    pub(crate) rule: Option<Rule>,
    /// The method of HTTP that a pre-signed URL must allow for it; `None` where none will do.
    pub(crate) signed_as: Option<&'static str>,
    sender: Sender,
    /// The body may be left out only where nothing in it is needed.
    required: &'static [&'static str],
    members: &'static [(&'static str, Wanted)],
}

const QUEUE: &str = "queue_name";
const PAGE: [(&str, Wanted); 2] = [("marker", Wanted::Text), ("limit", Wanted::Integer)];
const ONE_QUEUE: &[(&str, Wanted)] = &[(QUEUE, Wanted::Text)];
const ONE_CLAIM: &[(&str, Wanted)] = &[
    (QUEUE, Wanted::Text),
    ("claim_id", Wanted::Text),
    ("ttl", Wanted::Integer),
    ("grace", Wanted::Integer),
];
const ONE_SUBSCRIPTION: &[(&str, Wanted)] =
    &[(QUEUE, Wanted::Text), ("subscription_id", Wanted::Text)];
const POOL: &[(&str, Wanted)] = &[
    ("pool_name", Wanted::Text),
    ("weight", Wanted::Integer),
    ("uri", Wanted::Text),
    ("flavor", Wanted::Text),
    ("options", Wanted::Object),
    ("detailed", Wanted::Bool),
];
const FLAVOR: &[(&str, Wanted)] = &[
    ("flavor_name", Wanted::Text),
    ("pool_list", Wanted::List),
    ("pool_name", Wanted::Text),
    ("capabilities", Wanted::Object),
    ("detailed", Wanted::Bool),
];
const OVERVIEW: &[(&str, Wanted)] = &[PAGE[0], PAGE[1], ("detailed", Wanted::Bool)];

const fn form(
    name: &'static str,
    action: Action,
    required: &'static [&'static str],
    members: &'static [(&'static str, Wanted)],
) -> Form {
    let signed_as = match action {
        Action::MessageList | Action::MessageGet | Action::MessageGetMany => Some("GET"),
        Action::MessagePost => Some("POST"),
        Action::MessageDelete | Action::MessageDeleteMany => Some("DELETE"),
        _ => None,
    };
    Form { name, action, rule: rule(action), signed_as, sender: Sender::Client, required, members }
}

const fn rule(action: Action) -> Option<Rule> {
    Some(match action {
        Action::Authenticate | Action::HomeDocument | Action::SubscriptionAck => return None,
        Action::Health => Rule::HealthGet,
        Action::Ping => Rule::PingGet,
        Action::QueueList => Rule::QueuesGetAll,
        Action::QueueCreate => Rule::QueuesCreate,
        Action::QueueGet => Rule::QueuesGet,
        Action::QueueStats => Rule::QueuesStats,
        Action::QueueDelete => Rule::QueuesDelete,
        Action::QueuePurge => Rule::QueuesPurge,
        Action::MessagePost => Rule::MessagesCreate,
        Action::MessageList => Rule::MessagesGetAll,
        Action::MessageGet | Action::MessageGetMany => Rule::MessagesGet,
        Action::MessageDelete => Rule::MessagesDelete,
        Action::MessageDeleteMany => Rule::MessagesDeleteAll,
        Action::ClaimCreate => Rule::ClaimsCreate,
        Action::ClaimGet => Rule::ClaimsGet,
        Action::ClaimUpdate => Rule::ClaimsUpdate,
        Action::ClaimDelete => Rule::ClaimsDelete,
        Action::SubscriptionCreate => Rule::SubscriptionCreate,
        Action::SubscriptionList => Rule::SubscriptionGetAll,
        Action::SubscriptionGet => Rule::SubscriptionGet,
        Action::SubscriptionDelete => Rule::SubscriptionDelete,
        Action::PoolList => Rule::PoolsGetAll,
        Action::PoolCreate => Rule::PoolsCreate,
        Action::PoolUpdate => Rule::PoolsUpdate,
        Action::PoolGet => Rule::PoolsGet,
        Action::PoolDelete => Rule::PoolsDelete,
        Action::FlavorList => Rule::FlavorsGetAll,
        Action::FlavorCreate => Rule::FlavorsCreate,
        Action::FlavorUpdate => Rule::FlavorsUpdate,
        Action::FlavorGet => Rule::FlavorsGet,
        Action::FlavorDelete => Rule::FlavorsDelete,
    })
}

const FORMS: &[Form] = &[
    Form { sender: Sender::Token, ..form("authenticate", Action::Authenticate, &[], &[]) },
    Form { sender: Sender::Project, ..form("get_home_doc", Action::HomeDocument, &[], &[]) },
    Form { sender: Sender::Project, ..form("check_node_health", Action::Health, &[], &[]) },
    Form { sender: Sender::Project, ..form("ping_node", Action::Ping, &[], &[]) },
    form("queue_list", Action::QueueList, &[], OVERVIEW),
    form("queue_create", Action::QueueCreate, &[QUEUE], ONE_QUEUE),
    form("queue_get", Action::QueueGet, &[QUEUE], ONE_QUEUE),
    form("queue_get_stats", Action::QueueStats, &[QUEUE], ONE_QUEUE),
    form("queue_delete", Action::QueueDelete, &[QUEUE], ONE_QUEUE),
    form(
        "queue_purge",
        Action::QueuePurge,
        &[QUEUE],
        &[(QUEUE, Wanted::Text), ("resource_types", Wanted::List)],
    ),
    form(
        "message_post",
        Action::MessagePost,
        &[QUEUE, "messages"],
        &[(QUEUE, Wanted::Text), ("messages", Wanted::List)],
    ),
    form(
        "message_list",
        Action::MessageList,
        &[QUEUE],
        &[
            (QUEUE, Wanted::Text),
            PAGE[0],
            PAGE[1],
            ("echo", Wanted::Bool),
            ("include_claimed", Wanted::Bool),
            ("include_delayed", Wanted::Bool),
        ],
    ),
    form(
        "message_get",
        Action::MessageGet,
        &[QUEUE, "message_id"],
        &[(QUEUE, Wanted::Text), ("message_id", Wanted::Text)],
    ),
    form(
        "message_get_many",
        Action::MessageGetMany,
        &[QUEUE, "message_ids"],
        &[(QUEUE, Wanted::Text), ("message_ids", Wanted::List)],
    ),
    form(
        "message_delete",
        Action::MessageDelete,
        &[QUEUE, "message_id"],
        &[(QUEUE, Wanted::Text), ("message_id", Wanted::Text), ("claim_id", Wanted::Text)],
    ),
    form(
        "message_delete_many",
        Action::MessageDeleteMany,
        &[QUEUE],
        &[
            (QUEUE, Wanted::Text),
            ("message_ids", Wanted::List),
            ("claim_ids", Wanted::List),
            ("pop", Wanted::Integer),
        ],
    ),
    form(
        "claim_create",
        Action::ClaimCreate,
        &[QUEUE],
        &[
            (QUEUE, Wanted::Text),
            ("limit", Wanted::Integer),
            ("ttl", Wanted::Integer),
            ("grace", Wanted::Integer),
        ],
    ),
    form("claim_get", Action::ClaimGet, &[QUEUE, "claim_id"], ONE_CLAIM),
    form("claim_update", Action::ClaimUpdate, &[QUEUE, "claim_id"], ONE_CLAIM),
    form("claim_delete", Action::ClaimDelete, &[QUEUE, "claim_id"], ONE_CLAIM),
    form(
        "subscription_create",
        Action::SubscriptionCreate,
        &[QUEUE],
        &[
            (QUEUE, Wanted::Text),
            ("subscriber", Wanted::Text),
            ("ttl", Wanted::Integer),
            ("options", Wanted::Object),
        ],
    ),
    form(
        "subscription_list",
        Action::SubscriptionList,
        &[QUEUE],
        &[(QUEUE, Wanted::Text), PAGE[0], PAGE[1]],
    ),
    form(
        "subscription_get",
        Action::SubscriptionGet,
        &[QUEUE, "subscription_id"],
        ONE_SUBSCRIPTION,
    ),
    form(
        "subscription_delete",
        Action::SubscriptionDelete,
        &[QUEUE, "subscription_id"],
        ONE_SUBSCRIPTION,
    ),
    form(
        "subscription_ack",
        Action::SubscriptionAck,
        &["subscription_id", "delivery"],
        &[("subscription_id", Wanted::Text), ("delivery", Wanted::Integer)],
    ),
    form("pool_list", Action::PoolList, &[], OVERVIEW),
    form("pool_create", Action::PoolCreate, &["pool_name"], POOL),
    form("pool_update", Action::PoolUpdate, &["pool_name"], POOL),
    form("pool_get", Action::PoolGet, &["pool_name"], POOL),
    form("pool_delete", Action::PoolDelete, &["pool_name"], POOL),
    form("flavor_list", Action::FlavorList, &[], OVERVIEW),
    form("flavor_create", Action::FlavorCreate, &["flavor_name"], FLAVOR),
    form("flavor_update", Action::FlavorUpdate, &["flavor_name"], FLAVOR),
    form("flavor_get", Action::FlavorGet, &["flavor_name"], FLAVOR),
    form("flavor_delete", Action::FlavorDelete, &["flavor_name"], FLAVOR),
];

/// Headers that must be strings where they are there.
const TEXT_HEADERS: [&str; 6] =
    ["Client-ID", "X-Project-ID", "X-Auth-Token", "User-Agent", "Date", "Accept"];

/// Why a request is not dispatched: the `error` of the answer, whose status is 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("{0} is not a valid action")]
    Action(String),
    #[error("Schema validation failed.")]
    Schema,
}

impl Form {
    /// The form of a request's action, which the request has.
    ///
    /// # Errors
    ///
    /// Every [`Misfit`].
    pub(crate) fn of(request: &Request<'_>) -> Result<&'static Self, Misfit> {
        let form = form_of(request)?;
        let fits = headers_fit(form.sender, request) && body_fits(form, request);
        if fits && request.request_id_fits() { Ok(form) } else { Err(Misfit::Schema) }
    }
}

fn form_of(request: &Request<'_>) -> Result<&'static Form, Misfit> {
    let Some(action) = request.action else { return Err(Misfit::Action("None".to_owned())) };
    let name = action.string();
    let found = FORMS.iter().find(|form| Some(form.name) == name.as_deref());
    found.ok_or_else(|| {
        let said = name.map_or_else(|| action.text().to_owned(), |name| name.into_owned());
        Misfit::Action(said.chars().take(ACTION_CHARS_SHOWN).collect())
    })
}

/// Characters of an unknown action that are said again.
const ACTION_CHARS_SHOWN: usize = 64;

fn headers_fit(sender: Sender, request: &Request<'_>) -> bool {
    let Some(headers) = request.headers.filter(|headers| headers.kind() == Kind::Object) else {
        return false;
    };
    let required: &[&str] = match sender {
        Sender::Project => &["X-Project-ID"],
        Sender::Client => &["Client-ID", "X-Project-ID"],
        Sender::Token => &["X-Project-ID", "X-Auth-Token"],
    };
    let texts = TEXT_HEADERS.iter().filter_map(|name| headers.member(name));
    required.iter().all(|name| headers.member(name).is_some())
        && texts.into_iter().all(|value| value.kind() == Kind::String)
}

fn body_fits(form: &Form, request: &Request<'_>) -> bool {
    let Some(body) = request.body else { return form.required.is_empty() };
    body.kind() == Kind::Object
        && form.required.iter().all(|name| body.member(name).is_some())
        && body.members().all(|(name, value)| {
            let wanted = form.members.iter().find(|(member, _)| *member == name);
            wanted.is_none_or(|(_, wanted)| wanted.is(value))
        })
}

impl Wanted {
    fn is(self, value: Raw<'_>) -> bool {
        let kind = match self {
            Self::Text => Kind::String,
            Self::Integer => Kind::Integer,
            Self::Bool => Kind::Bool,
            Self::List => Kind::Array,
            Self::Object => Kind::Object,
        };
        value.kind() == kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn action(text: &str) -> Result<Action, String> {
        let raw = check(text.as_bytes()).unwrap();
        Form::of(&Request::of(raw)).map(|form| form.action).map_err(|misfit| misfit.to_string())
    }

    fn sent(action: &str, body: &str) -> String {
        format!(r#"{{"action":"{action}","headers":{{"Client-ID":"c","X-Project-ID":"p"}}{body}}}"#)
    }

    #[test]
    fn every_action_is_in_the_table_once_under_its_name() {
        for form in FORMS {
            assert_eq!(FORMS.iter().filter(|other| other.name == form.name).count(), 1);
            assert_eq!(FORMS.iter().filter(|other| other.action == form.action).count(), 1);
            assert!(
                form.required.iter().all(|name| form.members.iter().any(|(own, _)| own == name))
            );
        }
    }

    #[test]
    fn a_request_in_its_form_is_taken() {
        assert_eq!(action(&sent("queue_list", "")), Ok(Action::QueueList));
        assert_eq!(
            action(&sent("queue_create", r#","body":{"queue_name":"q","metadata":7}"#)),
            Ok(Action::QueueCreate)
        );
        assert_eq!(
            action(r#"{"action":"ping_node","headers":{"X-Project-ID":"p"}}"#),
            Ok(Action::Ping)
        );
        assert_eq!(
            action(
                r#"{"action":"authenticate","headers":{"X-Project-ID":"p","X-Auth-Token":"t"}}"#
            ),
            Ok(Action::Authenticate)
        );
    }

    #[test]
    fn an_unknown_action_is_named() {
        assert_eq!(action(&sent("dance", "")), Err("dance is not a valid action".to_owned()));
        assert_eq!(action("{}"), Err("None is not a valid action".to_owned()));
        assert_eq!(action(r#"{"action":7}"#), Err("7 is not a valid action".to_owned()));
    }

    #[test]
    fn a_request_that_lacks_something_or_has_it_in_another_kind_is_refused() {
        for text in [
            sent("queue_create", ""),
            sent("queue_create", r#","body":{}"#),
            sent("queue_create", r#","body":[]"#),
            sent("queue_create", r#","body":{"queue_name":7}"#),
            sent("message_list", r#","body":{"queue_name":"q","limit":1.0}"#),
            sent("message_list", r#","body":{"queue_name":"q","limit":true}"#),
            sent("message_list", r#","body":{"queue_name":"q","echo":1}"#),
            sent("queue_list", r#","request_id":[]"#),
            r#"{"action":"queue_list"}"#.to_owned(),
            r#"{"action":"queue_list","headers":[]}"#.to_owned(),
            r#"{"action":"queue_list","headers":{"Client-ID":"c"}}"#.to_owned(),
            r#"{"action":"queue_list","headers":{"Client-ID":"c","X-Project-ID":7}}"#.to_owned(),
            r#"{"action":"queue_list","headers":{"client-id":"c","x-project-id":"p"}}"#.to_owned(),
        ] {
            assert_eq!(action(&text), Err("Schema validation failed.".to_owned()), "{text}");
        }
    }
}
