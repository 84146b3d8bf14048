//! Pools and flavors over WebSocket: the actions that Zaqar declares and never answers.

use it::socket::Socket;
use it::{Broker, Http};
use serde_json::{Value, json};

const WHY: &str = "has no queue service";
const SETTINGS: &[&str] = &["queues.admin_mode=true", "queues.pooling=true", "queues.policy=open"];

#[test]
fn a_pool_is_made_replaced_changed_listed_and_forgotten() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut socket = Socket::of(&program);
    let uri = program.directory().join("second").display().to_string();
    let pool = json!({"pool_name": "second", "weight": 10, "uri": uri, "options": {"a": 1}});
    let shown = json!({"name": "second", "weight": 10, "uri": uri, "flavor": null});

    assert_eq!(socket.ask("pool_create", pool.clone()), (201, json!("Pool second created.")));
    assert_eq!(socket.ask("pool_create", pool).0, 201);
    assert_eq!(socket.ask("pool_get", json!({"pool_name": "second"})), (200, shown.clone()));
    let (_, detailed) = socket.ask("pool_get", json!({"pool_name": "second", "detailed": true}));
    assert_eq!(detailed["options"], json!({"a": 1}));
    assert_eq!(socket.ask("pool_list", json!({})), (200, json!({"pools": [shown]})));
    assert_eq!(socket.ask("pool_list", json!({"marker": "second"})).1, json!({"pools": []}));
    let (status, changed) = socket.ask("pool_update", json!({"pool_name": "second", "weight": 7}));
    assert_eq!((status, &changed["weight"], &changed["uri"]), (200, &json!(7), &json!(uri)));
    // It is the same definition through both doors.
    let mut http = Http::new(&program);
    assert_eq!(http.get("/v2/pools/second").json()["weight"], 7);
    let removed = (204, json!("Pool second removed."));
    assert_eq!(socket.ask("pool_delete", json!({"pool_name": "second"})), removed);
    assert_eq!(socket.ask("pool_delete", json!({"pool_name": "second"})), removed);
    let (status, missing) = socket.ask("pool_get", json!({"pool_name": "second"}));
    assert_eq!((status, &missing["exception"]), (404, &json!("Pool second does not exist")));
}

/// Asks for each and gets the refusal.
fn assert_refused(socket: &mut Socket, cases: &[(&str, Value, u64, &str)]) {
    for (action, body, status, text) in cases {
        let answer = socket.ask(action, body.clone());

        assert_eq!((answer.0, &answer.1["exception"]), (*status, &json!(text)), "{action} {body}");
    }
}

#[test]
fn what_is_wrong_with_a_pool_is_said_as_over_http() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut socket = Socket::of(&program);
    socket.ask("pool_create", json!({"pool_name": "a", "weight": 1, "uri": "memory:"}));
    let b = |mut more: Value| {
        more["pool_name"] = json!("b");
        more
    };

    let mongodb = b(json!({"weight": 1, "uri": "mongodb://localhost"}));
    let unnamed = b(json!({"weight": 1}));
    let negative = b(json!({"weight": -1, "uri": "memory:"}));
    let second = b(json!({"weight": 1, "uri": "memory:"}));
    let nothing =
        "Bad request. One of `uri`, `weight`, `flavor`, or `options` needs to be specified";
    let page = "Limit must be at least 1 and no greater than 20.";
    let cases = [
        ("pool_create", mongodb, 400, "Bad request. cannot connect to mongodb://localhost"),
        ("pool_create", unnamed, 400, "Bad request. 'uri' is a required property"),
        ("pool_create", negative, 400, "Bad request. -1 is not from 0 to 4294967295"),
        ("pool_create", second, 409, "The database URI is in use by another pool."),
        ("pool_update", json!({"pool_name": "a"}), 400, nothing),
        ("pool_update", b(json!({"weight": 1})), 404, "Pool b does not exist"),
        ("pool_list", json!({"limit": 21}), 400, page),
    ];
    assert_refused(&mut socket, &cases);
    for body in
        [json!({"weight": 1}), json!({"pool_name": 7}), json!({"pool_name": "a", "weight": "1"})]
    {
        let refused = (400, json!({"error": "Schema validation failed."}));
        assert_eq!(socket.ask("pool_update", body), refused);
    }
}

#[test]
fn what_is_wrong_with_a_flavor_is_said_as_over_http() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut socket = Socket::of(&program);
    socket.ask("pool_create", json!({"pool_name": "a", "weight": 1, "uri": "memory:"}));
    let of = |pools: Value| json!({"flavor_name": "gold", "pool_list": pools});
    let gold = json!({"flavor_name": "gold"});

    let unknown = "Flavor gold could not be created, error:Pool none does not exist";
    let missing = "Flavor gold does not exist";
    let cases = [
        ("flavor_create", of(json!(["none"])), 400, unknown),
        ("flavor_create", of(json!([])), 400, "Bad Request"),
        ("flavor_create", of(json!([7])), 400, "Bad request. 7 is not of type 'string'"),
        ("flavor_create", gold.clone(), 400, "Bad request. 'pool_list' is a required property"),
        ("flavor_update", of(json!(["a"])), 404, missing),
        ("flavor_update", of(json!([])), 400, "Bad Request"),
        ("flavor_update", gold.clone(), 400, "Bad request. `pool_list` needs to be specified"),
        ("flavor_get", gold, 404, missing),
    ];
    assert_refused(&mut socket, &cases);
    socket.ask("flavor_create", of(json!(["a"])));
    let text = "Flavor gold cant be updated, error:Pool none does not exist";
    assert_refused(&mut socket, &[("flavor_update", of(json!(["none"])), 400, text)]);
}

#[test]
fn a_flavor_is_made_of_a_list_or_of_one_pool_and_queues_live_in_it() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut socket = Socket::of(&program);
    for name in ["a", "b"] {
        let uri = program.directory().join(name).display().to_string();
        socket.ask("pool_create", json!({"pool_name": name, "weight": 1, "uri": uri}));
    }

    let created = socket.ask("flavor_create", json!({"flavor_name": "gold", "pool_name": "a"}));
    assert_eq!(created, (201, json!("Flavor gold created.")));
    let (_, shown) = socket.ask("flavor_get", json!({"flavor_name": "gold"}));
    assert_eq!(shown["pool_list"], json!(["a"]));
    let capabilities = json!(["FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"]);
    assert_eq!(shown["capabilities"], capabilities);
    let change = json!({"flavor_name": "gold", "pool_list": ["b", "a"]});
    assert_eq!(socket.ask("flavor_update", change).1["pool_list"], json!(["a", "b"]));
    let listed = socket.ask("flavor_list", json!({})).1;
    assert_eq!(listed, json!({"flavors": [{"name": "gold", "pool_list": ["a", "b"]}]}));
    let queue = json!({"queue_name": "q", "metadata": {"_flavor": "gold"}});
    assert_eq!(socket.ask("queue_create", queue).0, 201);
    // One of two may go; the last one of a flavor may not, nor one in which a queue lives.
    let gone: Vec<u64> =
        ["a", "b"].map(|name| socket.ask("pool_delete", json!({"pool_name": name})).0).into();
    assert!(gone == [204, 403] || gone == [403, 204], "{gone:?}");
    let removed = socket.ask("flavor_delete", json!({"flavor_name": "gold"}));
    assert_eq!(removed, (204, json!("Flavor gold removed.")));
}

#[test]
fn without_admin_mode_or_pooling_there_are_none() {
    for settings in [&SETTINGS[1..], &[SETTINGS[0], SETTINGS[2]]] {
        let Some(program) = Broker::start_own_with(WHY, settings) else { return };
        let mut socket = Socket::of(&program);

        assert_eq!(socket.ask("pool_list", json!({})).0, 404);
        assert_eq!(socket.ask("flavor_create", json!({"flavor_name": "g"})).0, 404);
    }
}
