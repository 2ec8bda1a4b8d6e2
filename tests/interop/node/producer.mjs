// The side that puts jobs in and watches what becomes of them.

import { answer, bullmq, connection, remembered } from "./lines.mjs";

const { FlowProducer, Queue, QueueEvents } = bullmq;
const WATCHED = ["active", "completed", "failed", "progress", "stalled", "delayed", "paused", "resumed"];

const queue = remembered((name) => new Queue(name, { connection }));
const flows = remembered(() => new FlowProducer({ connection }));
const listener = remembered((name) => {
  const seen = [];
  const events = new QueueEvents(name, { connection });
  for (const event of WATCHED) {
    events.on(event, (given) => seen.push({ event, ...given }));
  }
  return { events, seen };
});

const found = async (given) => {
  const job = await queue(given.queue).getJob(given.id);
  if (!job) {
    throw new Error(`there is no job ${given.id}`);
  }
  return job;
};

answer({
  listen: async (given) => {
    await listener(given.queue).events.waitUntilReady();
  },
  heard: (given) => listener(given.queue).seen,
  add: async (given) => (await queue(given.queue).add(given.name, given.data, given.options ?? {})).id,
  addBulk: async (given) => (await queue(given.queue).addBulk(given.jobs)).map((job) => job.id),
  addFlow: async (given) => (await flows("").add(given.flow)).job.id,
  finished: async (given) => {
    const { events } = listener(given.queue);
    await events.waitUntilReady();
    return (await found(given)).waitUntilFinished(events, given.timeout_ms);
  },
  state: async (given) => queue(given.queue).getJobState(given.id),
  job: async (given) => {
    const { id, name, data, opts, attemptsMade, failedReason, returnvalue, timestamp, processedOn } = await found(given);
    return { id, name, data, opts, attemptsMade, failedReason, returnvalue, timestamp, processedOn };
  },
  childrenValues: async (given) => (await found(given)).getChildrenValues(),
  counts: async (given) => queue(given.queue).getJobCounts(...given.states),
  pause: async (given) => queue(given.queue).pause(),
  resume: async (given) => queue(given.queue).resume(),
  schedule: async (given) => {
    await queue(given.queue).upsertJobScheduler(given.id, given.repeat, given.template);
  },
  unschedule: async (given) => queue(given.queue).removeJobScheduler(given.id),
  schedulers: async (given) => (await queue(given.queue).getJobSchedulers()).map((one) => one.key),
  // Before job schedulers there were repeatable jobs; 6.x has them no more.
  repeatables: async (given) => (await queue(given.queue).getRepeatableJobs()).map((one) => one.key),
  removeRepeatable: async (given) => queue(given.queue).removeRepeatableByKey(given.key),
});
