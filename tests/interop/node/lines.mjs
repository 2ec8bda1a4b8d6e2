// Requests come as JSON lines {"id", "operation", "given"}; each is answered by one line {"id", "result"} or
// {"id", "error"}. Several may be under way at a time. The process ends with its input.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// The release under test, from the directory that the test installed it into.
export const bullmq = createRequire(`${process.env.BULLMQ_HOME}/`)("bullmq");

const redis = new URL(process.env.REDIS_URL);
export const connection = { host: redis.hostname, port: Number(redis.port) };

export function answer(operations) {
  const send = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  const lines = createInterface({ input: process.stdin });
  lines.on("line", async (line) => {
    const { id, operation, given } = JSON.parse(line);
    try {
      send({ id, result: (await operations[operation](given)) ?? null });
    } catch (error) {
      send({ id, error: String(error?.message ?? error) });
    }
  });
  lines.on("close", () => process.exit(0));
}

export function remembered(make) {
  const made = new Map();
  return (name) => {
    if (!made.has(name)) {
      made.set(name, make(name));
    }
    return made.get(name);
  };
}
