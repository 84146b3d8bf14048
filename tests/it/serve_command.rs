//! `posthouse serve` as an operator meets it.

use std::net::TcpStream;
use std::process::Output;

use it::program::command;
use it::{Broker, Connection, Login};

const WHY: &str = "is started in another way";

/// Runs the program to its end; it is expected to refuse.
fn refuses(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut serve = command();
    serve.args([
        "serve",
        "--set",
        "amqp.listen=127.0.0.1:0",
        "--set",
        "metrics.listen=",
        "--set",
        "queues.listen=",
    ]);
    if !args.contains(&"--data-dir") {
        serve.arg("--data-dir").arg(folder.path());
    }
    let Output { status, stderr, .. } = serve.args(args).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{args:?} was accepted: {said}");
    said
}

#[test]
fn it_prints_its_address_and_that_it_is_ready() {
    let Some(program) = Broker::start_own(WHY) else { return };

    assert_ne!(program.address.port(), 0);
    assert!(program.page("/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn sigterm_says_goodbye_and_exits_with_0() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let address = program.address;

    program.terminate();
    let close = connection.closed();

    assert_eq!(close.code, 320, "{close:?}");
    assert!(close.text.starts_with("CONNECTION_FORCED"), "{}", close.text);
    assert!(program.stop().success());
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_client_that_does_not_answer_does_not_hold_up_the_stop() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let silent: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(program.address).unwrap()).collect();
    let idle = Connection::open(program.address, &Login::default()).unwrap();
    let started = std::time::Instant::now();

    assert!(program.stop().success());

    assert!(started.elapsed() < it::PATIENCE, "{:?}", started.elapsed());
    drop((silent, idle));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let data = program.data_directory();

    let said = refuses(&["--data-dir", data.to_str().unwrap()]);

    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert!(Connection::open(program.address, &Login::default()).is_ok(), "the first goes on");
}

#[test]
fn the_data_is_free_again_after_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    for _ in 0..3 {
        program.restart();
    }
}

#[test]
fn an_unknown_option_is_refused_with_a_suggestion() {
    if it::broker::foreign().is_some() {
        return;
    }
    let said = refuses(&["--set", "amqp.lisen=127.0.0.1:0"]);

    assert!(said.contains("amqp.lisen") && said.contains("amqp.listen"), "{said}");
}

#[test]
fn a_bad_value_is_refused_and_named() {
    if it::broker::foreign().is_some() {
        return;
    }
    for (setting, word) in [
        ("amqp.heartbeat=soon", "heartbeat"),
        ("amqp.frame_max=100", "frame_max"),
        ("amqp.version=new", "version"),
        ("alarms.memory_high_watermark=7.5", "memory_high_watermark"),
    ] {
        let said = refuses(&["--set", setting]);

        assert!(said.contains(word), "{setting}: {said}");
    }
}

#[test]
fn an_unknown_option_in_a_file_is_refused_too() {
    if it::broker::foreign().is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthouse.toml");
    std::fs::write(&file, "[amqp]\nheartbet = \"5s\"\n").unwrap();

    let said = refuses(&["--config", file.to_str().unwrap()]);

    assert!(said.contains("heartbet") && said.contains("heartbeat"), "{said}");
}

#[test]
fn the_environment_and_the_command_line_win_over_the_file() {
    if it::broker::foreign().is_some() {
        return;
    }
    let Some(program) =
        Broker::start_own_with(WHY, &["amqp.product=Parcel", "amqp.version=3.13.7"])
    else {
        return;
    };

    let connection = Connection::open(program.address, &Login::default()).unwrap();

    let said =
        |name| connection.server.field(name).and_then(it::Value::as_text).unwrap().to_owned();
    assert_eq!((said("product"), said("version")), ("Parcel".to_owned(), "3.13.7".to_owned()));
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let address = program.address.to_string();

    let said = refuses(&["--set", &format!("amqp.listen={address}")]);

    assert!(said.contains(&address), "{said}");
}

#[test]
fn metrics_have_the_names_that_rabbitmq_dashboards_know() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.send(&queue, "x");
    channel.sync();

    let answer = program.page("/metrics");

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for line in [
        "rabbitmq_connections 1",
        "rabbitmq_channels 1",
        "rabbitmq_queues 1",
        "rabbitmq_queue_messages_ready 1",
    ] {
        assert!(answer.lines().any(|found| found == line), "no line `{line}` in:\n{answer}");
    }
    assert!(program.page("/readyz").starts_with("HTTP/1.1 200"));
    assert!(program.page("/nowhere").starts_with("HTTP/1.1 404"));
}

#[test]
fn metrics_tell_what_the_store_and_the_publishers_do() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.declare_durable("q", &[]).unwrap();
    let before = [
        program.metric("posthouse_store_sync_seconds_count"),
        program.metric("posthouse_store_bytes_written_total"),
        program.metric("posthouse_store_commits_total"),
    ];

    channel.confirms();
    channel.publish("", "q", &it::Properties::persistent(), &[0; 4096]);
    channel.publish("", "nobody", &it::Properties::persistent(), b"x");
    channel.wait_confirms(2);

    assert!(program.metric("posthouse_store_sync_seconds_count") > before[0]);
    assert!(program.metric("posthouse_store_sync_seconds_sum") > 0.0);
    assert!(program.metric("posthouse_store_bytes_written_total") >= before[1] + 4096.0);
    assert!(program.metric("posthouse_store_commits_total") > before[2]);
    assert!(program.metric("posthouse_store_segments") >= 1.0);
    assert!(program.metric("posthouse_store_disk_bytes") > 4096.0);
    // As RabbitMQ counts: also what no queue wanted.
    let received = "rabbitmq_global_messages_received_total{protocol=\"amqp091\"}";
    assert!((program.metric(received) - 2.0).abs() < 0.1);
}

#[test]
fn a_stop_under_load_loses_no_confirmed_message() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    for number in 0..2000 {
        channel.publish("", "q", &it::Properties::persistent(), format!("{number}").as_bytes());
    }
    let mut confirmed = 0;
    while confirmed < 200 {
        confirmed = channel.next_confirm(it::PATIENCE).unwrap().tag;
    }

    assert!(program.stop().success());
    program.start_again();

    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let found = connection.channel().take_all("q");
    assert!(found.len() as u64 >= confirmed, "{} of {confirmed}", found.len());
    let expected: Vec<String> = (0..found.len()).map(|number| number.to_string()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_key_that_others_may_read_is_warned_of_and_a_hangup_ends_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let definitions = folder.path().join("definitions.json");
    std::fs::write(&definitions, "{}").unwrap();
    std::fs::set_permissions(&definitions, std::fs::Permissions::from_mode(0o644)).unwrap();
    let setting = format!("definitions.file={}", definitions.display());
    let Some(program) = Broker::start_own_with(WHY, &[&setting]) else { return };

    program.hang_up();

    let deadline = std::time::Instant::now() + it::PATIENCE;
    while !program.log().contains("no certificates to read again") {
        assert!(std::time::Instant::now() < deadline, "{}", program.log());
    }
    assert!(program.log().contains("chmod 0600"), "{}", program.log());
    assert!(program.page("/readyz").starts_with("HTTP/1.1 200"));
}
