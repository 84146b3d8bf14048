//! Queues that are read without being emptied (`x-queue-type: stream`).

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Connection, Login, Properties, Value};

fn stream(channel: &Channel, count: u32) -> String {
    let name = unique("stream");
    channel.declare_durable(&name, &table([("x-queue-type", "stream".into())])).unwrap();
    channel.confirms();
    for number in 0..count {
        channel.publish("", &name, &Properties::persistent(), number.to_string().as_bytes());
    }
    channel.wait_confirms(count.into());
    name
}

/// Reads `count` messages from an offset on a channel of its own, acknowledging each.
fn read(connection: &Connection, name: &str, offset: Value, count: usize) -> Vec<(String, i64)> {
    let channel = connection.channel();
    channel.prefetch(10);
    channel.consume(name, "", &table([("x-stream-offset", offset)])).unwrap();
    let messages = std::iter::repeat_with(|| {
        let message = channel.next();
        channel.ack(message.tag);
        let offset = message
            .properties
            .header("x-stream-offset")
            .and_then(Value::as_int)
            .expect("an offset");
        (message.text().to_owned(), offset)
    });
    let read = messages.take(count).collect();
    channel.close().unwrap();
    read
}

#[test]
fn reading_leaves_everything_where_it_is() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = stream(&connection.channel(), 30);

    let first = read(&connection, &name, "first".into(), 30);
    let again = read(&connection, &name, "first".into(), 30);

    assert_eq!(first, again);
    assert_eq!(first[29], ("29".to_owned(), 29));
    connection.channel().delete(&name, [false, false]).unwrap();
}

#[test]
fn reading_starts_where_it_is_told_to() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = stream(&channel, 10);

    assert_eq!(read(&connection, &name, Value::Long(7), 1), [("7".to_owned(), 7)]);
    let next = connection.channel();
    next.prefetch(10);
    next.consume(&name, "", &table([("x-stream-offset", "next".into())])).unwrap();
    channel.publish("", &name, &Properties::persistent(), b"new");

    assert_eq!(next.next().text(), "new");
    connection.channel().delete(&name, [false, false]).unwrap();
}

#[test]
fn several_readers_each_get_everything() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = stream(&connection.channel(), 5);
    let readers: Vec<Channel> = (0..3).map(|_| connection.channel()).collect();
    for reader in &readers {
        reader.prefetch(10);
        reader.consume(&name, "", &table([("x-stream-offset", "first".into())])).unwrap();
    }

    for reader in &readers {
        let bodies: Vec<String> = (0..5).map(|_| reader.next().text().to_owned()).collect();
        assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
    }
    connection.channel().delete(&name, [false, false]).unwrap();
}

#[test]
fn prefetch_holds_a_reader_of_a_stream_back() {
    let Some(program) = Broker::start_own("sends whole chunks of a stream") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let name = stream(&connection.channel(), 5);
    let reader = connection.channel();
    reader.prefetch(2);
    reader.consume(&name, "", &table([("x-stream-offset", "first".into())])).unwrap();

    let held = [reader.next(), reader.next()];
    reader.expect_silence();
    held.iter().for_each(|message| reader.ack(message.tag));

    assert_eq!([reader.next().text(), reader.next().text()], ["2", "3"]);
}

#[test]
fn a_stream_that_is_not_durable_or_exclusive_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();
    let arguments = table([("x-queue-type", "stream".into())]);

    let transient =
        connection.channel().declare_queue(&unique("s"), [false; 4], &arguments).unwrap_err();
    let exclusive = connection
        .channel()
        .declare_queue(&unique("s"), [false, true, true, false], &arguments)
        .unwrap_err();

    assert_eq!((transient.code, exclusive.code), (406, 406));
}

#[test]
fn a_stream_is_there_after_a_kill_with_the_same_offsets() {
    let Some(mut program) = Broker::start_own("is not ours to kill") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let name = stream(&connection.channel(), 20);
    let before = read(&connection, &name, "first".into(), 20);

    program.restart();

    let connection = Connection::open(program.address, &Login::default()).unwrap();
    assert_eq!(read(&connection, &name, "first".into(), 20), before);
}

#[test]
fn a_stream_keeps_about_as_many_bytes_as_it_is_told() {
    let Some(program) = Broker::start_own("keeps whole segments of its own size") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let arguments =
        table([("x-queue-type", "stream".into()), ("x-max-length-bytes", 100_000.into())]);
    channel.declare_durable("s", &arguments).unwrap();
    channel.confirms();
    for _ in 0..1000 {
        channel.publish("", "s", &Properties::persistent(), &[7; 1000]);
    }
    channel.wait_confirms(1000);

    let oldest = first_offset(&connection);

    assert!(oldest > 0, "nothing was dropped");
    assert!(oldest < 990, "more was dropped than asked for: the oldest is {oldest}");
}

fn first_offset(connection: &Connection) -> i64 {
    let channel = connection.channel();
    channel.prefetch(1);
    channel.consume("s", "", &table([("x-stream-offset", "first".into())])).unwrap();
    channel.next().properties.header("x-stream-offset").and_then(Value::as_int).expect("an offset")
}
