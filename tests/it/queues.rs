//! Declaring, inspecting and deleting queues.

use it::broker::unique;
use it::frame::{self, Args};
use it::value::table;
use it::{Broker, Connection, Login, Value};

#[test]
fn a_queue_named_by_the_server_is_the_one_meant_by_an_empty_name() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();

    let name = channel.declare("", &[]).unwrap().name;

    assert!(name.starts_with("amq.gen-") && name.len() == "amq.gen-".len() + 22, "{name}");
    channel.bind("", "amq.fanout", "", &[]).unwrap();
    assert_eq!(channel.purge(""), Ok(0));
    let fresh = connection.channel().purge("").unwrap_err();
    assert_eq!((fresh.code, &*fresh.text), (404, "NOT_FOUND - no previously declared queue"));
}

#[test]
fn whatever_is_asked_of_a_missing_queue_is_refused_with_404() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("missing");
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");

    let refusals = [
        connection.channel().inspect(&name).unwrap_err(),
        connection.channel().get(&name, true).unwrap_err(),
        connection.channel().consume(&name, "", &[]).unwrap_err(),
        connection.channel().purge(&name).unwrap_err(),
        connection.channel().bind(&name, "amq.direct", "", &[]).unwrap_err(),
    ];

    for close in refusals {
        assert_eq!((close.code, close.text, close.of_connection), (404, text.clone(), false));
    }
}

#[test]
fn deleting_and_unbinding_what_is_missing_succeeds() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("missing");

    assert_eq!(channel.delete(&name, [false, false]), Ok(0));
    assert_eq!(channel.delete_exchange(&name, false), Ok(()));
    assert_eq!(channel.unbind(&name, "amq.direct", "k"), Ok(()));
}

#[test]
fn names_that_begin_with_amq_are_reserved() {
    let broker = Broker::start();
    let connection = broker.connect();

    let close = connection.channel().declare("amq.foo", &[]).unwrap_err();

    assert_eq!(
        (close.code, &*close.text, close.blames),
        (403, "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'", (50, 10))
    );
}

#[test]
fn declaring_again_with_other_settings_is_refused_and_says_which() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("again");
    let first = table([("x-message-ttl", 60_000.into())]);
    connection.channel().declare(&name, &first).unwrap();

    connection.channel().declare(&name, &table([("x-message-ttl", 60_000_i64.into())])).unwrap();
    let other =
        connection.channel().declare(&name, &table([("x-message-ttl", 1.into())])).unwrap_err();
    let without = connection.channel().declare(&name, &[]).unwrap_err();

    let start = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{name}' in vhost '/': "
    );
    assert_eq!(
        (other.code, other.text),
        (406, format!("{start}received '1' but current is '60000'"))
    );
    let text = format!("{start}received none but current is the value '60000' of type 'signedint'");
    assert_eq!((without.code, without.text), (406, text));
}

#[test]
fn declaring_a_durable_queue_again_as_transient_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("again");
    connection.channel().declare_durable(&name, &[]).unwrap();

    let close = connection.channel().declare_queue(&name, [false; 4], &[]).unwrap_err();

    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{name}' in vhost '/': \
         received 'false' but current is 'true'"
    );
    assert_eq!((close.code, close.text), (406, text));
    connection.channel().delete(&name, [false, false]).unwrap();
}

#[test]
fn bad_arguments_are_refused_with_the_reason() {
    let broker = Broker::start();
    let connection = broker.connect();
    let cases = [
        ("x-message-ttl", Value::from(-1), "{value_negative,-1}"),
        ("x-expires", Value::from(0), "{value_zero,0}"),
        ("x-max-priority", Value::from(300), "{max_value_exceeded,300}"),
        ("x-overflow", Value::from("up"), "invalid_overflow"),
        ("x-dead-letter-routing-key", Value::from("k"), "routing_key_but_no_dlx_defined"),
        ("x-single-active-consumer", Value::from("a"), "{unacceptable_type,longstr}"),
    ];
    for (argument, value, why) in cases {
        let name = unique("bad");

        let close = connection.channel().declare(&name, &table([(argument, value)])).unwrap_err();

        let text = format!(
            "PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/': {why}"
        );
        assert_eq!((close.code, close.text), (406, text));
    }
}

#[test]
fn an_exclusive_queue_is_locked_for_others_and_goes_with_its_connection() {
    let broker = Broker::start();
    let (connection, other) = (broker.connect(), broker.connect());
    let name = unique("exclusive");
    connection.channel().declare(&name, &[]).unwrap();

    let refusals = [
        other.channel().inspect(&name).unwrap_err(),
        other.channel().declare(&name, &[]).unwrap_err(),
        other.channel().get(&name, true).unwrap_err(),
        other.channel().consume(&name, "", &[]).unwrap_err(),
        other.channel().delete(&name, [false, false]).unwrap_err(),
    ];
    for close in refusals {
        assert_eq!(close.code, 405);
        let text = format!(
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'."
        );
        assert!(close.text.starts_with(&text), "{}", close.text);
    }

    connection.close();
    assert_eq!(other.channel().inspect(&name).unwrap_err().code, 404);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer_and_not_before_its_first() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("auto");
    channel.declare_queue(&name, [false, false, false, true], &[]).unwrap();
    assert!(channel.inspect(&name).is_ok());
    channel.consume(&name, "a", &[]).unwrap();
    channel.consume(&name, "b", &[]).unwrap();

    channel.cancel("a").unwrap();
    assert_eq!(channel.inspect(&name).unwrap().consumers, 1);
    channel.cancel("b").unwrap();

    assert_eq!(connection.channel().inspect(&name).unwrap_err().code, 404);
}

#[test]
fn deleting_if_unused_and_if_empty_protects_the_queue() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("kept");
    channel.declare(&name, &[]).unwrap();
    channel.send(&name, "x");
    channel.sync();

    let full = connection.channel().delete(&name, [false, true]).unwrap_err();
    channel.consume_flagged(&name, "c", [true, false], &[]).unwrap();
    let used = connection.channel().delete(&name, [true, false]).unwrap_err();

    let text = |what: &str| format!("PRECONDITION_FAILED - queue '{name}' in vhost '/' {what}");
    assert_eq!((full.code, full.text), (406, text("not empty")));
    assert_eq!((used.code, used.text), (406, text("in use")));
}

#[test]
fn a_passive_declare_sees_what_was_published_before_it_on_the_same_channel() {
    let Some(program) = Broker::start_own("lets a passive declare overtake a publish") else {
        return;
    };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    for count in 1..200 {
        channel.send(&queue, "x");
        assert_eq!(channel.inspect(&queue).unwrap().messages, count);
    }
}

#[test]
fn a_declare_that_wants_no_answer_works_and_still_closes_the_channel_if_it_fails() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let declare = |name: &str| {
        Args::default().short(0).text(name).bits(&[false, false, true, false, true]).table(&[])
    };
    let name = unique("no-wait");

    connection.send(&frame::method(channel.number, 50, 10, &declare(&name)));
    assert!(channel.inspect(&name).is_ok());
    connection.send(&frame::method(channel.number, 50, 10, &declare("amq.no")));

    assert_eq!(channel.closed().code, 403);
}

#[test]
fn quorum_queues_and_the_arguments_of_old_clients_are_accepted() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("quorum");
    channel.declare_durable(&name, &table([("x-queue-type", "quorum".into())])).unwrap();
    channel
        .declare("", &table([("x-queue-mode", "lazy".into()), ("x-queue-type", "classic".into())]))
        .unwrap();
    channel.declare("", &table([("x-something-else", "kept".into())])).unwrap();

    channel.send(&name, "x");
    channel.sync();

    assert_eq!(channel.take_soon(&name).text(), "x");
    channel.delete(&name, [false, false]).unwrap();
}

#[test]
fn many_clients_that_declare_at_once_are_all_answered() {
    let Some(program) = Broker::start_own("is slow at declaring") else { return };
    let address = program.address;

    std::thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                let connection = Connection::open(address, &Login::default()).unwrap();
                let channel = connection.channel();
                for number in 0..300 {
                    channel.declare_durable(&format!("q-{client}-{number}"), &[]).unwrap();
                }
            });
        }
    });
}
