// Starts, kills and restarts the real program; or names the broker that `POSTHOUSE_TEST_BROKER` says.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, openSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const foreign = process.env.POSTHOUSE_TEST_BROKER;

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

function path() {
  if (process.env.POSTHOUSE_PROGRAM) return process.env.POSTHOUSE_PROGRAM;
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const built = ["fast", "release", "debug"].map((profile) => join(target, profile, "posthouse"));
  const found = built.find((file) => existsSync(file));
  if (!found) throw new Error("build the program first: cargo build --profile fast -p posthouse");
  return found;
}

/** One running `posthouse serve`, which keeps its port and its data over restarts. */
export class Program {
  port = 0;
  directory = mkdtempSync(join(tmpdir(), "posthouse-node-"));

  get url() {
    return `amqp://guest:guest@127.0.0.1:${this.port}/`;
  }

  /** Starts it and waits for its line `ready`. */
  async start() {
    const settings = [`amqp.listen=127.0.0.1:${this.port}`, "metrics.listen=127.0.0.1:0", "queues.listen="];
    const args = ["serve", "--data-dir", join(this.directory, "data"), ...settings.flatMap((set) => ["--set", set])];
    const log = openSync(join(this.directory, "log"), "a");
    this.process = spawn(path(), args, { stdio: ["ignore", "pipe", log] });
    for await (const line of createInterface({ input: this.process.stdout })) {
      if (line.startsWith("listening amqp ")) this.port = Number(line.split(":").at(-1));
      if (line === "ready") {
        this.process.stdout.resume();
        return this;
      }
    }
    throw new Error(`the program ended before it was ready, see ${this.directory}/log`);
  }

  async end(signal) {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return this.process.exitCode;
    const ended = once(this.process, "exit");
    this.process.kill(signal);
    return (await ended)[0];
  }

  /** Ends it as a power switch would, then starts it on the same port and the same data. */
  async restart() {
    await this.end("SIGKILL");
    await this.start();
  }
}
