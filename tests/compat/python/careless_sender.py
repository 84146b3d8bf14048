"""A `send` that breaks the contract: each insert is a transaction of its own, whatever the application wants."""

import json
import sqlite3
import sys
import uuid

connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for line in sys.stdin:
    ids = []
    try:
        for message in json.loads(line)["messages"]:
            ids.append(str(uuid.uuid4()))
            row = (ids[-1], message["topic"], json.dumps(message["payload"]))
            connection.execute("insert into posthouse_outbox (id, topic, payload) values (?, ?, ?)", row)
        answer = {"ids": ids}
    except sqlite3.Error as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
