// rabbitmq-c against the program: one scenario per run, `behaviour PORT SCENARIO NAME`; exit 0 if it went as promised.
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else  // before 0.12
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

static amqp_connection_state_t connection;
static const char *name;
static const int patience_secs = 20;

static amqp_bytes_t text(const char *value) { return amqp_cstring_bytes(value); }

static void check_reply(const char *what) {
  amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
  fprintf(stderr, "%s: ", what);
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
    amqp_channel_close_t *close = reply.reply.decoded;
    fprintf(stderr, "channel closed %d %.*s\n", close->reply_code, (int)close->reply_text.len,
            (char *)close->reply_text.bytes);
  } else {
    fprintf(stderr, "%s\n", amqp_error_string2(reply.library_error));
  }
  exit(1);
}

static void connect_to(int port) {
  connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  CHECK(amqp_socket_open(socket, "127.0.0.1", port) == 0);
  amqp_rpc_reply_t reply = amqp_login(connection, "/", 0, 131072, 10, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  CHECK(reply.reply_type == AMQP_RESPONSE_NORMAL);
  amqp_channel_open(connection, 1);
  check_reply("channel.open");
}

// Declares a queue with up to one argument table.
static void declare(const char *queue, int durable, amqp_table_t arguments) {
  amqp_queue_declare(connection, 1, text(queue), 0, durable, !durable, 0, arguments);
  check_reply("queue.declare");
}

static void publish(const char *exchange, const char *key, const char *body, amqp_basic_properties_t *properties,
                    int mandatory) {
  CHECK(amqp_basic_publish(connection, 1, text(exchange), text(key), mandatory, 0, properties, text(body)) == 0);
}

static void consume(const char *queue, int no_ack) {
  amqp_basic_consume(connection, 1, text(queue), amqp_empty_bytes, 0, no_ack, 0, amqp_empty_table);
  check_reply("basic.consume");
}

// The next delivery must have that body; answers its tag.
static uint64_t expect(const char *body, int redelivered, amqp_envelope_t *kept) {
  amqp_envelope_t envelope;
  struct timeval patience = {patience_secs, 0};
  amqp_maybe_release_buffers(connection);
  amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &patience, 0);
  CHECK(reply.reply_type == AMQP_RESPONSE_NORMAL);
  CHECK(envelope.message.body.len == strlen(body));
  CHECK(memcmp(envelope.message.body.bytes, body, strlen(body)) == 0);
  CHECK(envelope.redelivered == redelivered);
  uint64_t tag = envelope.delivery_tag;
  if (kept)
    *kept = envelope;
  else
    amqp_destroy_envelope(&envelope);
  return tag;
}

static void expect_silence(void) {
  amqp_envelope_t envelope;
  struct timeval moment = {0, 250000};
  amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &moment, 0);
  CHECK(reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT);
}

static void await_ack(void) {
  amqp_method_t method;
  CHECK(amqp_simple_wait_method(connection, 1, AMQP_BASIC_ACK_METHOD, &method) == AMQP_STATUS_OK);
}

static amqp_table_entry_t text_entry(const char *key, const char *value) {
  amqp_table_entry_t entry = {.key = text(key), .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = text(value)}};
  return entry;
}

static amqp_table_entry_t int_entry(const char *key, int value) {
  amqp_table_entry_t entry = {.key = text(key), .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = value}};
  return entry;
}

// A queue `name` whose dead letters go to the queue `dead`, consumed by nobody yet.
static const char *dead = "";
static void declare_dying(int extra_count, amqp_table_entry_t extra) {
  static char buffer[300];
  snprintf(buffer, sizeof buffer, "%s-dead", name);
  dead = buffer;
  declare(dead, 0, amqp_empty_table);
  amqp_table_entry_t entries[3] = {text_entry("x-dead-letter-exchange", ""),
                                   text_entry("x-dead-letter-routing-key", dead), extra};
  amqp_table_t arguments = {2 + extra_count, entries};
  declare(name, 0, arguments);
}

static void topology(void) {
  amqp_exchange_declare(connection, 1, text(name), text("topic"), 0, 0, 1, 0, amqp_empty_table);
  check_reply("exchange.declare");
  declare(name, 0, amqp_empty_table);
  amqp_queue_bind(connection, 1, text(name), text(name), text("a.*"), amqp_empty_table);
  check_reply("queue.bind");
  consume(name, 1);
  publish(name, "b.c", "miss", NULL, 0);
  publish(name, "a.c", "hit", NULL, 0);
  expect("hit", 0, NULL);
  amqp_queue_unbind(connection, 1, text(name), text(name), text("a.*"), amqp_empty_table);
  check_reply("queue.unbind");
  amqp_queue_delete(connection, 1, text(name), 0, 0);
  check_reply("queue.delete");
}

static void confirms(void) {
  declare(name, 0, amqp_empty_table);
  amqp_confirm_select(connection, 1);
  check_reply("confirm.select");
  for (int number = 0; number < 20; number++) {
    publish("", name, "x", NULL, 0);
    await_ack();
  }
  amqp_queue_declare_ok_t *ok = amqp_queue_declare(connection, 1, text(name), 1, 0, 1, 0, amqp_empty_table);
  check_reply("queue.declare passive");
  CHECK(ok->message_count == 20);
}

static void returns(void) {
  amqp_confirm_select(connection, 1);
  check_reply("confirm.select");
  publish("", name, "back", NULL, 1);
  amqp_method_t method;
  CHECK(amqp_simple_wait_method(connection, 1, AMQP_BASIC_RETURN_METHOD, &method) == AMQP_STATUS_OK);
  CHECK(((amqp_basic_return_t *)method.decoded)->reply_code == 312);
  amqp_message_t message;
  CHECK(amqp_read_message(connection, 1, &message, 0).reply_type == AMQP_RESPONSE_NORMAL);
  CHECK(message.body.len == 4);
  amqp_destroy_message(&message);
  await_ack();
}

static void prefetch(void) {
  declare(name, 0, amqp_empty_table);
  for (int number = 0; number < 3; number++) publish("", name, "x", NULL, 0);
  amqp_basic_qos(connection, 1, 0, 2, 0);
  check_reply("basic.qos");
  consume(name, 0);
  expect("x", 0, NULL);
  uint64_t tag = expect("x", 0, NULL);
  expect_silence();
  CHECK(amqp_basic_ack(connection, 1, tag, 1) == 0);
  expect("x", 0, NULL);
}

static void requeue(void) {
  declare(name, 0, amqp_empty_table);
  publish("", name, "x", NULL, 0);
  consume(name, 0);
  CHECK(amqp_basic_nack(connection, 1, expect("x", 0, NULL), 0, 1) == 0);
  CHECK(amqp_basic_reject(connection, 1, expect("x", 1, NULL), 1) == 0);
  CHECK(amqp_basic_ack(connection, 1, expect("x", 1, NULL), 0) == 0);
}

static amqp_table_entry_t *field(const amqp_table_t *table, const char *key) {
  for (int place = 0; place < table->num_entries; place++) {
    amqp_bytes_t found = table->entries[place].key;
    if (found.len == strlen(key) && memcmp(found.bytes, key, found.len) == 0) return &table->entries[place];
  }
  return NULL;
}

static void expect_death(const char *reason) {
  amqp_envelope_t envelope;
  consume(dead, 1);
  expect("x", 0, &envelope);
  amqp_table_entry_t *deaths = field(&envelope.message.properties.headers, "x-death");
  CHECK(deaths && deaths->value.kind == AMQP_FIELD_KIND_ARRAY && deaths->value.value.array.num_entries == 1);
  amqp_table_t death = deaths->value.value.array.entries[0].value.table;
  amqp_table_entry_t *why = field(&death, "reason");
  CHECK(why && why->value.value.bytes.len == strlen(reason));
  CHECK(memcmp(why->value.value.bytes.bytes, reason, strlen(reason)) == 0);
  amqp_destroy_envelope(&envelope);
}

static void dead_letters(void) {
  amqp_table_entry_t none = {0};
  declare_dying(0, none);
  publish("", name, "x", NULL, 0);
  consume(name, 0);
  CHECK(amqp_basic_reject(connection, 1, expect("x", 0, NULL), 0) == 0);
  expect_death("rejected");
}

static void time_to_live(void) {
  declare_dying(1, int_entry("x-message-ttl", 50));
  publish("", name, "x", NULL, 0);
  expect_death("expired");
}

static void priorities(void) {
  amqp_table_entry_t entry = int_entry("x-max-priority", 9);
  amqp_table_t arguments = {1, &entry};
  declare(name, 0, arguments);
  const char *bodies[] = {"1", "9", "5"};
  for (int place = 0; place < 3; place++) {
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_PRIORITY_FLAG, .priority = bodies[place][0] - '0'};
    publish("", name, bodies[place], &properties, 0);
  }
  consume(name, 1);
  expect("9", 0, NULL);
  expect("5", 0, NULL);
  expect("1", 0, NULL);
}

static void delayed(void) {
  amqp_table_entry_t kind = text_entry("x-delayed-type", "direct");
  amqp_table_t arguments = {1, &kind};
  amqp_exchange_declare(connection, 1, text(name), text("x-delayed-message"), 0, 0, 1, 0, arguments);
  check_reply("exchange.declare");
  declare(name, 0, amqp_empty_table);
  amqp_queue_bind(connection, 1, text(name), text(name), text("k"), amqp_empty_table);
  check_reply("queue.bind");
  consume(name, 1);
  amqp_table_entry_t delay = int_entry("x-delay", 400);
  amqp_basic_properties_t properties = {._flags = AMQP_BASIC_HEADERS_FLAG, .headers = {1, &delay}};
  publish(name, "k", "later", &properties, 0);
  publish(name, "k", "now", NULL, 0);
  expect("now", 0, NULL);
  expect_silence();
  expect("later", 0, NULL);
}

static void transactions(void) {
  declare(name, 0, amqp_empty_table);
  amqp_tx_select(connection, 1);
  check_reply("tx.select");
  publish("", name, "undone", NULL, 0);
  amqp_tx_rollback(connection, 1);
  check_reply("tx.rollback");
  publish("", name, "done", NULL, 0);
  amqp_tx_commit(connection, 1);
  check_reply("tx.commit");
  consume(name, 1);
  expect("done", 0, NULL);
}

static void before_kill(void) {
  declare(name, 1, amqp_empty_table);
  amqp_confirm_select(connection, 1);
  check_reply("confirm.select");
  amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
  for (int number = 0; number < 10; number++) {
    publish("", name, "kept", &properties, 0);
    await_ack();
  }
}

static void after_kill(void) {
  declare(name, 1, amqp_empty_table);
  consume(name, 1);
  for (int number = 0; number < 10; number++) expect("kept", 0, NULL);
  expect_silence();
}

int main(int count, char **words) {
  static const struct {
    const char *name;
    void (*run)(void);
  } scenarios[] = {{"topology", topology},       {"confirms", confirms},
                   {"returns", returns},         {"prefetch", prefetch},
                   {"requeue", requeue},         {"dead_letters", dead_letters},
                   {"time_to_live", time_to_live}, {"priorities", priorities},
                   {"delayed", delayed},         {"transactions", transactions},
                   {"before_kill", before_kill}, {"after_kill", after_kill}};
  CHECK(count == 4);
  name = words[3];
  for (size_t place = 0; place < sizeof scenarios / sizeof *scenarios; place++) {
    if (strcmp(scenarios[place].name, words[2]) != 0) continue;
    connect_to(atoi(words[1]));
    scenarios[place].run();
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
    return 0;
  }
  fprintf(stderr, "no scenario %s\n", words[2]);
  return 2;
}
