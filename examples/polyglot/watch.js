// Launches a job, watches it, is cut off in the middle, goes on, and checks what it saw.
//
//   node watch.js [address] [agent] [task]
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const CUT_OFF_AFTER = 5;
const [address = "127.0.0.1:50051", agent = "countdown", task = "5"] = process.argv.slice(2);

// The contract is read from its files; nothing is generated. Numbers of 64 bits come as text.
const protos = loadSync(["callboard/v1/job.proto", "callboard/v1/thread.proto"], {
  includeDirs: [fileURLToPath(new URL("../../protos", import.meta.url))],
  keepCase: true,
  defaults: true, // Frames without events have an empty list of them, not none.
  oneofs: true,
  longs: String,
  enums: String,
});
const { JobService, ThreadService } = grpc.loadPackageDefinition(protos).callboard.v1;
const connect = (Service) => new Service(address, grpc.credentials.createInsecure());

/** Makes a call that has one answer, and gives it ten seconds. */
const call = (client, method, request) =>
  new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 10_000);
    client[method](request, { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });

/** Reads a run's events after a cursor until the run is done, or cuts itself off after some. */
async function read(run_id, after_sequence, most = Infinity) {
  const client = connect(ThreadService);
  const stream = client.StreamEvents({ run_id, after_sequence });
  stream.on("error", () => {}); // The loop throws it; a cancelled stream says it again.
  const events = [];
  try {
    for await (const frame of stream) {
      for (const event of frame.events) {
        if (events.push(event) === most) return events;
      }
    }
    return events;
  } finally {
    stream.cancel();
    client.close();
  }
}

/** Lists a run's events: what a reader ought to have seen. */
async function list(run_id, thread_id) {
  const client = connect(ThreadService);
  const events = [];
  for (let page = { through_sequence: 0, more: true }; page.more; ) {
    const request = { thread_id, after_sequence: page.through_sequence };
    page = await call(client, "ListEvents", request);
    events.push(...page.events.filter((event) => event.run_id === run_id));
  }
  return events;
}

const jobs = connect(JobService);
const request = { assistant_id: agent, task, request_id: randomUUID() };
const { job_id, run_id } = await call(jobs, "LaunchJob", request);
console.log(`launched job ${job_id}`);

const before = await read(run_id, 0, CUT_OFF_AFTER);
const last = before.at(-1);
console.log(`cut off after event ${last.sequence}, which is ${last.payload}`);
const after = await read(run_id, last.sequence);

const { state, outcome } = await call(jobs, "GetJob", { job_id });
const text = outcome.result?.content.map((block) => block.text?.text ?? "").join("");
console.log(`${state}: ${text ?? outcome.error.message}`);

const watched = [...before, ...after].map((event) => event.sequence);
const listed = (await list(run_id, job_id)).map((event) => event.sequence);
const missing = listed.filter((sequence) => !watched.includes(sequence)).length;
const twice = watched.length - new Set(watched).size;
console.log(
  `watched ${watched.length} events, cut off once, ` +
    `${missing || "none"} missing, ${twice || "none"} twice`,
);
process.exitCode = missing || twice ? 1 : 0;
