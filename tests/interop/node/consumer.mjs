// The side that takes jobs out. A worker either answers each job at once, or holds it until it is released.

import { answer, bullmq, connection, remembered } from "./lines.mjs";

const { UnrecoverableError, Worker } = bullmq;

const bench = remembered(() => ({ seen: [], held: new Map(), errors: [], worker: null }));

const finish = (how) => {
  if (how.failed) {
    throw how.forGood ? new UnrecoverableError(how.failed) : new Error(how.failed);
  }
  return how.result;
};

answer({
  work: async (given) => {
    const here = bench(given.queue);
    const process = async (job) => {
      if (given.progress !== undefined) {
        await job.updateProgress(given.progress);
      }
      const held = given.hold ? new Promise((resolve) => here.held.set(job.id, resolve)) : null;
      here.seen.push({ id: job.id, name: job.name, data: job.data, opts: job.opts, attemptsMade: job.attemptsMade });
      return finish(held ? await held : given);
    };
    here.worker = new Worker(given.queue, process, { connection, ...given.options });
    here.worker.on("error", (error) => here.errors.push(String(error?.message ?? error)));
    await here.worker.waitUntilReady();
  },
  seen: (given) => bench(given.queue).seen,
  errors: (given) => bench(given.queue).errors,
  release: (given) => {
    const { held } = bench(given.queue);
    held.get(given.id)(given.how);
    held.delete(given.id);
  },
  close: async (given) => bench(given.queue).worker.close(),
});
