//! Which queues a message goes to.

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, PATIENCE, Properties, SILENCE, Value};

/// Publishes with `mandatory` and answers whether a queue took it.
fn routes(channel: &Channel, exchange: &str, key: &str, properties: &Properties) -> bool {
    channel.publish_flagged(exchange, key, [true, false], properties, b"x");
    channel.sync();
    channel.next_return(std::time::Duration::ZERO).is_none()
}

#[test]
fn a_topic_star_is_one_word_and_a_hash_any_number() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let cases = [
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.c", false),
        ("a.*", "a.", true),
        ("*", "", false),
        ("#", "", true),
        ("#", "a.b.c", true),
        ("a.#", "a", true),
        ("a.#.z", "a.z", true),
        ("a.#.z", "a.b.c.z", true),
        ("#.b.#", "a.b.c", true),
        ("#.b.#", "a.c", false),
        ("*.#.*", "a", false),
        ("*.#.*", "a.b", true),
        ("#.#.#", "a.b", true),
    ];
    for (pattern, key, expected) in cases {
        let exchange = unique("topic");
        channel.exchange(&exchange, "topic").unwrap();
        let queue = channel.declare("", &[]).unwrap().name;
        channel.bind(&queue, &exchange, pattern, &[]).unwrap();

        assert_eq!(
            routes(&channel, &exchange, key, &Properties::default()),
            expected,
            "`{key}` to `{pattern}`"
        );
    }
}

#[test]
fn headers_match_all_or_any_and_a_void_only_asks_for_the_key() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let both = || vec![("a", Value::from(1)), ("b", Value::from("2"))];
    let cases = [
        (
            "all",
            both(),
            vec![("a", Value::from(1)), ("b", Value::from("2")), ("c", Value::from(3))],
            true,
        ),
        ("all", both(), vec![("a", Value::from(1))], false),
        ("any", both(), vec![("b", Value::from("2"))], true),
        ("any", both(), vec![("a", Value::from(2))], false),
        ("all", vec![("a", Value::Void)], vec![("a", Value::from("whatever"))], true),
        ("all", vec![("x-a", Value::from(1))], vec![("b", Value::from(1))], true),
        ("all-with-x", vec![("x-a", Value::from(1))], vec![("b", Value::from(1))], false),
        ("any-with-x", vec![("x-a", Value::from(1))], vec![("x-a", Value::from(1))], true),
    ];
    let owned = |fields: Vec<(&str, Value)>| {
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    for (mode, wanted, headers, expected) in cases {
        let exchange = unique("headers");
        channel.exchange(&exchange, "headers").unwrap();
        let queue = channel.declare("", &[]).unwrap().name;
        let mut arguments: Vec<(String, Value)> = owned(wanted.clone());
        arguments.push(("x-match".to_owned(), mode.into()));
        channel.bind(&queue, &exchange, "", &arguments).unwrap();

        let properties = Properties { headers: Some(owned(headers)), ..Properties::default() };
        assert_eq!(routes(&channel, &exchange, "", &properties), expected, "{mode} {wanted:?}");
    }
}

#[test]
fn a_bad_x_match_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    let close =
        channel.bind(&queue, "amq.headers", "", &table([("x-match", "zz".into())])).unwrap_err();

    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"zz\">>; \
                expected all, any, all-with-x, or any-with-x";
    assert_eq!((close.code, &*close.text), (406, text));
}

#[test]
fn a_queue_bound_twice_gets_one_copy() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (from, to) = (unique("from"), unique("to"));
    channel.exchange(&from, "topic").unwrap();
    channel.exchange(&to, "fanout").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &from, "a.#", &[]).unwrap();
    channel.bind(&queue, &from, "*.b", &[]).unwrap();
    channel.bind(&queue, &to, "", &[]).unwrap();
    channel.bind_exchange(&to, &from, "#").unwrap();

    channel.publish(&from, "a.b", &Properties::default(), b"x");
    channel.sync();

    assert_eq!(channel.inspect(&queue).unwrap().messages, 1);
}

#[test]
fn exchanges_bound_in_a_circle_route_once() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let names: Vec<String> = (0..3).map(|_| unique("circle")).collect();
    names.iter().for_each(|name| channel.exchange(name, "fanout").unwrap());
    for (place, name) in names.iter().enumerate() {
        channel.bind_exchange(&names[(place + 1) % 3], name, "").unwrap();
    }
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &names[2], "", &[]).unwrap();

    assert!(routes(&channel, &names[0], "", &Properties::default()));

    assert_eq!(channel.inspect(&queue).unwrap().messages, 1);
    names.iter().for_each(|name| channel.delete_exchange(name, false).unwrap());
}

#[test]
fn an_alternate_exchange_takes_what_is_not_routed() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (rest, main) = (unique("rest"), unique("main"));
    channel.exchange(&rest, "fanout").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &rest, "", &[]).unwrap();
    let alternate = table([("alternate-exchange", (&rest).into())]);
    channel.declare_exchange(&main, "direct", [false; 4], &alternate).unwrap();

    assert!(routes(&channel, &main, "nobody", &Properties::default()));

    let message = channel.take_soon(&queue);
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), (&*main, "nobody"));
    channel.delete_exchange(&main, false).unwrap();
}

#[test]
fn alternate_exchanges_in_a_circle_end() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (one, two) = (unique("one"), unique("two"));
    for (name, other) in [(&one, &two), (&two, &one)] {
        channel
            .declare_exchange(
                name,
                "direct",
                [false; 4],
                &table([("alternate-exchange", other.into())]),
            )
            .unwrap();
    }

    assert!(!routes(&channel, &one, "nobody", &Properties::default()));

    channel.delete_exchange(&one, false).unwrap();
    channel.delete_exchange(&two, false).unwrap();
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let exchange = unique("auto");
    channel.exchange(&exchange, "fanout").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, "a", &[]).unwrap();
    channel.bind(&queue, &exchange, "b", &[]).unwrap();

    channel.unbind(&queue, &exchange, "a").unwrap();
    assert!(
        channel.declare_exchange(&exchange, "fanout", [true, false, false, false], &[]).is_ok()
    );
    channel.unbind(&queue, &exchange, "b").unwrap();

    let close = channel
        .declare_exchange(&exchange, "fanout", [true, false, false, false], &[])
        .unwrap_err();
    assert_eq!(
        (close.code, close.text),
        (404, format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'"))
    );
}

#[test]
fn the_default_exchange_is_not_to_be_touched() {
    let broker = Broker::start();
    let connection = broker.connect();
    let queue = connection.channel().declare("", &[]).unwrap().name;

    let refusals = [
        connection.channel().bind(&queue, "", "k", &[]).unwrap_err(),
        connection.channel().delete_exchange("", false).unwrap_err(),
        connection
            .channel()
            .declare_exchange("", "direct", [false, true, false, false], &[])
            .unwrap_err(),
        connection
            .channel()
            .declare_exchange("", "direct", [true, true, false, false], &[])
            .unwrap_err(),
    ];

    for close in refusals {
        let text = "ACCESS_REFUSED - operation not permitted on the default exchange";
        assert_eq!((close.code, &*close.text), (403, text));
    }
}

#[test]
fn the_exchanges_of_the_system_are_there_and_stay() {
    let broker = Broker::start();
    let connection = broker.connect();
    let all = [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ];
    for (name, kind) in all {
        let durable = [false, true, false, false];
        assert_eq!(
            connection.channel().declare_exchange(name, kind, durable, &[]),
            Ok(()),
            "{name}"
        );
    }

    let deleted = connection.channel().delete_exchange("amq.direct", false).unwrap_err();
    let reserved = connection.channel().exchange("amq.foo", "direct").unwrap_err();

    let text = "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    assert_eq!((deleted.code, &*deleted.text), (403, text));
    let text = "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'";
    assert_eq!((reserved.code, &*reserved.text), (403, text));
}

#[test]
fn declaring_an_exchange_again_with_another_type_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("again");
    connection.channel().exchange(&name, "direct").unwrap();

    let close = connection.channel().exchange(&name, "fanout").unwrap_err();

    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '/': \
         received 'fanout' but current is 'direct'"
    );
    assert_eq!((close.code, close.text), (406, text));
    connection.channel().delete_exchange(&name, false).unwrap();
}

#[test]
fn nobody_publishes_to_an_internal_exchange() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("internal");
    channel.declare_exchange(&name, "fanout", [false, false, false, true], &[]).unwrap();

    channel.publish(&name, "", &Properties::default(), b"x");

    let close = channel.closed();
    let text =
        format!("ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'");
    assert_eq!((close.code, close.text, close.blames), (403, text, (60, 40)));
    connection.channel().delete_exchange(&name, false).unwrap();
}

#[test]
fn an_exchange_in_use_is_not_deleted_if_unused_is_asked_for() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("used");
    channel.exchange(&name, "fanout").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &name, "", &[]).unwrap();

    let close = channel.delete_exchange(&name, true).unwrap_err();

    assert_eq!(
        (close.code, close.text),
        (406, format!("PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"))
    );
}

#[test]
fn publishing_to_a_missing_exchange_closes_the_channel_afterwards() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("missing");

    channel.publish(&name, "", &Properties::default(), b"x");

    let close = channel.closed();
    assert_eq!(
        (close.code, close.text, close.blames),
        (404, format!("NOT_FOUND - no exchange '{name}' in vhost '/'"), (60, 40))
    );
}

#[test]
fn cc_and_bcc_headers_add_queues_and_bcc_is_not_shown() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queues: Vec<String> = (0..3).map(|_| channel.declare("", &[]).unwrap().name).collect();
    let list = |queue: &String| Value::Array(vec![queue.into()]);

    let properties =
        Properties::with_headers([("CC", list(&queues[1])), ("BCC", list(&queues[2]))]);
    channel.publish("", &queues[0], &properties, b"x");

    for queue in &queues {
        let message = channel.take_soon(queue);
        assert_eq!(message.properties.header("CC"), Some(&list(&queues[1])));
        assert_eq!(message.properties.header("BCC"), None);
    }
    channel.publish("", &queues[0], &Properties::with_headers([("CC", "text".into())]), b"x");
    assert_eq!(channel.closed().code, 406);
}

#[test]
fn a_user_id_must_be_one_s_own() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let signed =
        |user: &str| Properties { user_id: Some(user.to_owned()), ..Properties::default() };

    channel.publish("", &queue, &signed("guest"), b"x");
    assert_eq!(channel.take_soon(&queue).properties.user_id.as_deref(), Some("guest"));
    channel.publish("", &queue, &signed("bob"), b"x");

    let close = channel.closed();
    let text =
        "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'";
    assert_eq!((close.code, &*close.text), (406, text));
}

#[test]
fn unbinding_stops_the_flow_through_an_exchange_to_exchange_binding() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("through");
    channel.exchange(&name, "fanout").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &name, "", &[]).unwrap();
    channel.bind_exchange(&name, "amq.topic", &format!("{name}.#")).unwrap();
    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();

    channel.publish("amq.topic", &format!("{name}.a"), &Properties::default(), b"1");
    assert!(channel.delivery(PATIENCE).is_some());
    let args = it::frame::Args::default()
        .short(0)
        .text(&name)
        .text("amq.topic")
        .text(&format!("{name}.#"))
        .octet(0);
    channel.call((40, 40), &args.table(&[]), (40, 51)).unwrap();
    channel.publish("amq.topic", &format!("{name}.a"), &Properties::default(), b"2");

    assert!(channel.delivery(SILENCE).is_none());
}
