// A MER worker for models in JavaScript: one file, no packages, written from docs/wire.md alone.
//
// node worker.mjs          frames on stdin and stdout, the log on stderr
//
// The runner `javascript` imports options.module ("handler.mjs" without it) from the version's folder. The module exports
// `handler(inputs, context)`, plain, async or a generator (then its parts are streamed), and may export `load(options,
// weights)`, called once before. Inputs and outputs are objects by name, whose values are
//   Tensor   {dtype, shape, data}: numbers; data is a typed array in C order: bits of 16 (Uint16Array) for float16 and
//            bfloat16, real and imaginary in turn for complex. Or strings, in an Array. `context.tensor` makes one
//   string   a tensor of strings of shape []          Uint8Array   bytes
//   array of Tensors: nested tensors                  anything else: JSON
// context: {request, meta, signal (an AbortSignal: the request was cancelled), inputs (iterate over it with `for await`:
// inputs that come in parts), tensor}.

import { AsyncLocalStorage } from "node:async_hooks";
import { readFileSync, statSync } from "node:fs";
import { resolve, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { format } from "node:util";

const PREAMBLE = Buffer.from("\x89MER\r\n\x1a\n", "latin1");
const VERSION = 1;
const HEADER = 32;
const ALIGNMENT = 64;
const CAP = {
  head: 1 << 20, body: 1 << 30, segments: 4096, name: 256, rank: 32, json: 64 << 20, texts: 1 << 24, meta: 16 << 10,
  logFrame: 64 << 10, requestLog: 1 << 20, error: 64 << 10, templates: 256, early: 1024, handles: 64,
};
const WINDOW = { parts: 64, bytes: 8 << 20 }; // of inputs that come in parts: what may wait here unread
const SEALED_MILLISECONDS = 600_000;
const KIND = {
  hello: 1, load: 2, infer: 3, batch: 4, part: 5, credit: 6, result: 7, seal: 8, release: 9, cancel: 10, ping: 11,
  pong: 12, log: 13, error: 14, have: 15, put: 16, shutdown: 17,
};
const FLAG = { more: 1, stream: 2, handle: 8 };

// dtype: [bytes of an element, the typed array, its items for one element]
const NUMERIC = {
  bool: [1, Uint8Array, 1], int8: [1, Int8Array, 1], uint8: [1, Uint8Array, 1], int16: [2, Int16Array, 1],
  uint16: [2, Uint16Array, 1], int32: [4, Int32Array, 1], uint32: [4, Uint32Array, 1], int64: [8, BigInt64Array, 1],
  uint64: [8, BigUint64Array, 1], float16: [2, Uint16Array, 1], bfloat16: [2, Uint16Array, 1],
  float32: [4, Float32Array, 1], float64: [8, Float64Array, 1], complex64: [8, Float32Array, 2],
  complex128: [16, Float64Array, 2],
};
const OTHERS = new Set(["string", "bytes", "json", "nested"]);

class Failure extends Error {
  constructor(kind, code, message) { super(message); Object.assign(this, { kind, code }); }
}
class BrokenStream extends Error {
  constructor(message, code = "bad-frame") { super(message); this.code = code; }
}
const invalid = (message) => new Failure("input", "input-invalid", message);

class Tensor {
  constructor(dtype, shape, data) { Object.assign(this, { dtype, shape, data }); }
}
const tensor = (dtype, shape, data) => new Tensor(dtype, shape, data);

// --- text and JSON

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const finite = (_key, value) => {
  if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError(`${value} is not JSON`);
  return value;
};

function json(value) {
  const text = JSON.stringify(value, finite);
  if (text === undefined) throw new TypeError(`a ${typeof value} is not JSON`);
  return Buffer.from(text);
}

function parsed(text) {
  try { return JSON.parse(utf8.decode(text)); } catch (error) { throw invalid(`no JSON: ${error.message}`); }
}

function object(head) {
  if (!head.length) return {};
  const value = parsed(head);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw invalid("a head is a JSON object");
  return value;
}

// --- frames out

const out = process.stdout; // a pipe: what is written here has gone when the call returns
const write = out.write.bind(out);
let mostBody = CAP.body;

function send(kind, { request = 0n, flags = 0, number = 0, fields, segments = 0, body = [] } = {}) {
  const head = fields ? json(fields) : Buffer.alloc(0);
  if (head.length > CAP.head) throw new Failure("output", "output-invalid", `a head of ${head.length} bytes`);
  const header = Buffer.alloc(HEADER);
  header.writeUInt8(kind, 0);
  header.writeUInt8(flags, 1);
  header.writeUInt16LE(segments, 2);
  header.writeBigUInt64LE(request, 8);
  header.writeUInt32LE(head.length, 16);
  header.writeUInt32LE(Math.min(number, 0xffffffff), 20);
  header.writeBigUInt64LE(BigInt(body.reduce((sum, piece) => sum + piece.byteLength, 0)), 24);
  out.cork();
  for (const piece of [header, head, ...body]) if (piece.byteLength) write(piece);
  out.uncork();
}

const cut = (text) => {
  const points = Array.from(String(text).toWellFormed());
  if (points.length <= CAP.error) return points.join("");
  const half = (CAP.error >> 1) - 40; // room for the words between
  return `${points.slice(0, half).join("")}\n… ${points.length - 2 * half} characters left out …\n${points.slice(-half).join("")}`;
};

function sendError(request, { kind, code, message, traceback, meta }, number = 0) {
  const fields = { kind, code, message: cut(message) };
  if (traceback) fields.traceback = cut(traceback);
  if (meta) fields.meta = meta;
  send(KIND.error, { request, number, fields });
}

// --- logs: what is printed while a request runs is its own, wherever in its asynchronous calls that is

const running = new AsyncLocalStorage();

function log(turn, stream, text) {
  const kept = text.subarray(0, turn.logLeft);
  turn.logLeft -= kept.length;
  turn.dropped += text.length - kept.length;
  for (let at = 0; at < kept.length; at += CAP.logFrame) {
    send(KIND.log, { request: turn.request, fields: { stream }, body: [kept.subarray(at, at + CAP.logFrame)] });
  }
}

for (const stream of ["stdout", "stderr"]) {
  const past = process.stderr.write.bind(process.stderr); // of no request: the worker's own log
  process[stream].write = (text, encoding, done) => {
    if (typeof encoding === "function") [encoding, done] = [undefined, encoding];
    const turn = running.getStore();
    if (turn?.over === false) log(turn, stream, typeof text === "string" ? Buffer.from(text, encoding) : text);
    else past(text, encoding);
    if (done) process.nextTick(done);
    return true;
  };
}

// --- tensors

const elements = (shape) => shape.reduce((count, length) => count * length, 1);

function descriptor(item, nested = false) {
  if (item === null || typeof item !== "object" || Array.isArray(item)) throw invalid("a descriptor is an object");
  const { name = "", dtype, shape, inner } = item;
  if (!nested && (typeof name !== "string" || !name || Buffer.byteLength(name) > CAP.name)) {
    throw invalid(`a tensor's name is a text of 1 to ${CAP.name} bytes`);
  }
  if (!Object.hasOwn(NUMERIC, dtype) && !OTHERS.has(dtype)) throw invalid(`${name}: the unknown dtype ${dtype}`);
  if (dtype === "nested") {
    if (nested) throw invalid(`${name}: nested tensors do not nest`);
    if (!Array.isArray(inner) || inner.length > CAP.segments) throw invalid(`${name}: no list of inner tensors`);
    return { name, dtype, inner: inner.map((one) => descriptor(one, true)) };
  }
  if (!Array.isArray(shape) || shape.length > CAP.rank) throw invalid(`${name}: no shape of at most ${CAP.rank} lengths`);
  if (!shape.every((length) => Number.isSafeInteger(length) && length >= 0)) throw invalid(`${name}: an impossible shape`);
  if ((dtype === "bytes" || dtype === "json") && shape.length) throw invalid(`${name}: ${dtype} has the shape []`);
  if (dtype === "string" && elements(shape) > CAP.texts) throw invalid(`${name}: ${elements(shape)} texts`);
  return { name, dtype, shape };
}

function decodeOne({ name, dtype, shape }, bytes) {
  if (Object.hasOwn(NUMERIC, dtype)) {
    const [, TypedArray, items] = NUMERIC[dtype];
    // the body begins at a multiple of 8 in memory, each segment at one of 64 in the body: so this is a view, no copy
    return new Tensor(dtype, shape, new TypedArray(bytes.buffer, bytes.byteOffset, items * elements(shape)));
  }
  if (dtype === "bytes") return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  if (dtype === "json") {
    if (bytes.length > CAP.json) throw invalid(`${name}: ${bytes.length} bytes of JSON: the cap is ${CAP.json}`);
    try { return JSON.parse(utf8.decode(bytes)); } catch (error) { throw invalid(`${name}: ${error.message}`); }
  }
  const count = elements(shape);
  let at = 4 * count;
  if (at > bytes.length) throw invalid(`${name}: ${bytes.length} bytes for ${count} strings`);
  const texts = [];
  for (let index = 0; index < count; index++) {
    const end = at + bytes.readUInt32LE(4 * index);
    if (end > bytes.length) throw invalid(`${name}: a string ends past its segment`);
    try { texts.push(utf8.decode(bytes.subarray(at, end))); } catch { throw invalid(`${name}: no UTF-8`); }
    at = end;
  }
  if (at !== bytes.length) throw invalid(`${name}: bytes after the last string`);
  return shape.length ? new Tensor(dtype, shape, texts) : texts[0];
}

function decode(fields, frame) {
  const { tensors = [], meta = {} } = fields;
  if (!Array.isArray(tensors)) throw invalid("the tensors of a head are a list");
  if (meta === null || typeof meta !== "object" || Array.isArray(meta)) throw invalid("a meta is a JSON object");
  if (json(meta).length > CAP.meta) throw invalid(`a meta beyond ${CAP.meta} bytes`);
  const descriptors = tensors.map((item) => descriptor(item));
  if (new Set(descriptors.map(({ name }) => name)).size !== descriptors.length) throw invalid("a name stands twice");
  const leaves = descriptors.flatMap((outer) => outer.inner ?? [outer]);
  const { body } = frame;
  if (leaves.length !== frame.segments) throw invalid(`${frame.segments} segments for ${leaves.length} tensors`);
  if (8 * leaves.length > body.length) throw invalid("the body ends within its table");
  let end = 8 * leaves.length;
  const segments = leaves.map(({ name, dtype, shape }, index) => {
    const size = body.readBigUInt64LE(8 * index);
    if (Object.hasOwn(NUMERIC, dtype) && size !== BigInt(NUMERIC[dtype][0] * elements(shape))) {
      throw invalid(`${name}: ${size} bytes for ${dtype} of shape ${shape}`);
    }
    const start = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    if (BigInt(start) + size > BigInt(body.length)) throw invalid("a segment ends past the body");
    end = start + Number(size);
    return body.subarray(start, end);
  });
  if (end !== body.length) throw invalid(`a body of ${body.length} bytes for segments that end at ${end}`);
  const values = Object.create(null); // a name may be "__proto__"
  let next = 0;
  for (const one of descriptors) {
    values[one.name] = one.inner ? one.inner.map((inner) => decodeOne(inner, segments[next++])) : decodeOne(one, segments[next++]);
  }
  return { values, meta };
}

function encodeOne(name, value) {
  const wrong = (why) => new Failure("output", "output-invalid", `${name}: ${why}`);
  if (typeof value === "string") value = new Tensor("string", [], [value]);
  if (value instanceof Tensor) {
    const { dtype, shape, data } = value;
    if (!Array.isArray(shape) || shape.length > CAP.rank || !shape.every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw wrong("an impossible shape");
    }
    if (dtype === "string") {
      if (!Array.isArray(data) || data.length !== elements(shape)) throw wrong(`texts do not fill the shape ${shape}`);
      if (!data.every((text) => typeof text === "string" && text.isWellFormed())) throw wrong("not every element is a text");
      const texts = data.map((text) => Buffer.from(text));
      const lengths = Buffer.alloc(4 * texts.length);
      texts.forEach((text, index) => lengths.writeUInt32LE(text.length, 4 * index));
      return [{ dtype, shape }, Buffer.concat([lengths, ...texts])];
    }
    if (!Object.hasOwn(NUMERIC, dtype)) throw wrong(`the unknown dtype ${dtype}`);
    if (!ArrayBuffer.isView(data) || data.byteLength !== NUMERIC[dtype][0] * elements(shape)) {
      throw wrong(`data of ${data?.byteLength} bytes for ${dtype} of shape ${shape}`);
    }
    return [{ dtype, shape }, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
  }
  if (value instanceof Uint8Array) return [{ dtype: "bytes", shape: [] }, value];
  try {
    const text = json(value);
    if (text.length > CAP.json) throw new TypeError(`${text.length} bytes of JSON`);
    return [{ dtype: "json", shape: [] }, text];
  } catch (error) { throw wrong(error.message); }
}

function encode(values) {
  if (values === null || typeof values !== "object" || Array.isArray(values) || values instanceof Tensor) {
    throw new Failure("output", "output-invalid", "a handler returns an object of outputs");
  }
  const tensors = [], segments = [];
  for (const [name, value] of Object.entries(values)) {
    if (!name || Buffer.byteLength(name) > CAP.name || !name.isWellFormed()) {
      throw new Failure("output", "output-invalid", `the name ${name.slice(0, 40)} cannot be sent`);
    }
    if (Array.isArray(value) && value.length && value.every((one) => one instanceof Tensor)) {
      const inner = value.map((one) => encodeOne(name, one));
      tensors.push({ name, dtype: "nested", inner: inner.map(([told]) => told) });
      segments.push(...inner.map(([, bytes]) => bytes));
    } else {
      const [told, bytes] = encodeOne(name, value);
      tensors.push({ name, ...told });
      segments.push(bytes);
    }
  }
  if (segments.length > CAP.segments) throw new Failure("output", "output-invalid", `${segments.length} tensors`);
  const table = Buffer.alloc(8 * segments.length);
  const body = [table];
  let end = table.length;
  segments.forEach((bytes, index) => {
    table.writeBigUInt64LE(BigInt(bytes.byteLength), 8 * index);
    const start = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    body.push(Buffer.alloc(start - end), bytes);
    end = start + bytes.byteLength;
  });
  if (end > mostBody) throw new Failure("output", "output-invalid", `${end} bytes of tensors: the other side takes ${mostBody}`);
  return { fields: { tensors }, segments: segments.length, body };
}

// --- parts, and credit for them

const flows = new Map(); // by request: from its infer frame until it is over

class Flow {
  constructor(request, flags) {
    this.request = request;
    this.more = Boolean(flags & FLAG.more);
    this.stream = Boolean(flags & FLAG.stream);
    this.credit = { parts: 0, bytes: 0 }; // what the driver takes
    this.given = { parts: 0, bytes: 0 }; // what it may send
    this.came = [];
    this.wake = () => {};
  }

  async change(signal) {
    signal.throwIfAborted();
    await new Promise((resolve) => { this.wake = resolve; });
    signal.throwIfAborted();
  }

  grant(frame) {
    const { bytes = 0 } = object(frame.head);
    this.credit.parts += frame.number;
    this.credit.bytes += bytes;
    this.wake();
  }

  part(frame) {
    if (!this.more) throw new BrokenStream("a part of an input that has ended");
    this.more = Boolean(frame.flags & FLAG.more);
    if (this.more || frame.segments) {
      if (this.given.parts < 1 || this.given.bytes < 1) throw new BrokenStream("a part without credit");
      this.given.parts -= 1;
      this.given.bytes -= frame.body.length;
      this.came.push(frame);
    }
    this.wake();
  }

  async credited(signal) { // before the model computes a part: a slow reader stops it
    while (this.credit.parts < 1 || this.credit.bytes < 1) await this.change(signal);
  }

  async send(outputs, own) {
    const { fields, segments, body } = encode(outputs);
    const number = Math.round(1e3 * (performance.now() - own.since));
    this.credit.parts -= 1;
    this.credit.bytes -= body.reduce((sum, piece) => sum + piece.byteLength, 0);
    send(KIND.part, { request: this.request, number, fields, segments, body });
    await new Promise(setImmediate); // a model that yields without waiting would keep pings and cancels from being heard
    own.abort.signal.throwIfAborted();
  }

  async *inputs(signal) {
    for (;;) {
      if (this.more && !this.came.length) {
        const parts = WINDOW.parts - this.given.parts, bytes = WINDOW.bytes - this.given.bytes;
        this.given = { ...WINDOW };
        send(KIND.credit, { request: this.request, number: parts, fields: { bytes } });
      }
      while (this.more && !this.came.length) await this.change(signal);
      if (!this.came.length) return;
      const frame = this.came.shift();
      yield decode(fieldsOf(frame), frame).values;
    }
  }
}

// --- heads that were sent before

const templates = new Map();

function headOf(frame) {
  const { template, head } = frame;
  if (!template) return head;
  if (template > CAP.templates) throw new BrokenStream(`a template ${template}: there are ${CAP.templates}`);
  if (head.length) templates.set(template, head);
  else if (!templates.has(template)) throw new BrokenStream(`the template ${template} was never given`);
  return templates.get(template);
}

const fieldsOf = (frame) => object(frame.head);

// --- the model

let model;

function within(folder, name) {
  const path = resolve(folder, name);
  if (!path.startsWith(resolve(folder) + sep)) throw new Failure("load", "no-entry-point", `${name} is not within ${folder}`);
  return path;
}

function weightsIn({ body }) {
  if (!body?.length) return undefined;
  if (body.length > CAP.json) throw invalid(`a list of weights of ${body.length} bytes`);
  const listed = parsed(body);
  if (!Array.isArray(listed)) throw invalid("the body of a load is a list of weights");
  const weights = {};
  for (const [name, dtype, shape, path] of listed) {
    Object.defineProperty(weights, name, {
      enumerable: true,
      get() {
        const bytes = new Uint8Array(readFileSync(path));
        return new Tensor(dtype, shape, new NUMERIC[dtype][1](bytes.buffer));
      },
    });
  }
  return weights;
}

async function load(frame) {
  if (model) throw new Failure("protocol", "already-loaded", "this worker has its model; start another one");
  const { runner, folder, options = {} } = fieldsOf(frame);
  if (runner !== "javascript") throw new Failure("load", "no-runner", `there is no runner ${runner}, only javascript`);
  if (typeof folder !== "string" || !statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
    throw new Failure("load", "no-package", `there is no folder ${folder}`);
  }
  const { module = "handler.mjs", ...given } = options;
  const path = within(folder, module);
  if (!statSync(path, { throwIfNoEntry: false })) throw new Failure("load", "no-entry-point", `there is no module ${path}`);
  const found = await import(pathToFileURL(path));
  if (typeof found.handler !== "function") throw new Failure("load", "no-handler", `${module} exports no function handler`);
  if (found.load) await found.load(given, weightsIn(frame));
  model = found.handler;
}

// --- requests: one at a time, in the order in which they came

const waiting = []; // [frame, what to do with it]
const early = new Set(); // cancels of requests that have not begun
let turn; // what runs
let newest = 0n;

const OWN = fileURLToPath(import.meta.url);
const stack = (error) => error.stack?.split("\n").filter((line) => !line.includes(OWN) && !line.includes("node:")).join("\n");

async function next() {
  if (turn) return;
  while (waiting.length) {
    const [frame, work] = waiting.shift();
    const { request } = frame;
    const abort = new AbortController();
    turn = { request, abort, since: performance.now(), logLeft: CAP.requestLog, dropped: 0, over: false, frame };
    newest = request > newest ? request : newest;
    if (early.delete(request)) abort.abort();
    let answer;
    try {
      answer = await running.run(turn, async () => {
        if (abort.signal.aborted) {
          if (frame.kind === KIND.infer && frame.flags & FLAG.handle) taken(fieldsOf(frame)); // used up all the same
          throw abort.signal.reason;
        }
        return work(frame, turn);
      });
    } catch (error) {
      if (error instanceof Failure) answer = { error };
      else if (abort.signal.aborted) answer = { error: { kind: "cancelled", code: "cancelled", message: "cancelled" } };
      else {
        const kind = frame.kind === KIND.load ? "load" : "model";
        const message = error instanceof Error ? `${error.name}: ${error.message}` : format(error);
        answer = { error: { kind, code: "raised", message, traceback: error instanceof Error ? stack(error) : message } };
      }
    }
    if (turn.dropped) {
      const words = Buffer.from(`… ${turn.dropped} bytes dropped\n`);
      send(KIND.log, { request, fields: { stream: "stderr" }, body: [words] });
    }
    const number = Math.round(1e3 * (performance.now() - turn.since));
    if (answer.error && turn.spans) answer.error = { ...answer.error, message: answer.error.message, meta: turn.spans() };
    turn.over = true;
    turn = undefined;
    flows.delete(request);
    if (answer.error) sendError(request, answer.error, number);
    else send(KIND.result, { request, number, ...answer });
  }
}

const sealed = new Map(); // handle: {values, meta, expiry}
let seals = 0;

function taken({ handle }) {
  const found = sealed.get(handle);
  if (!found) throw new Failure("input", "no-handle", `there is no handle ${handle}: it was used, released or forgotten`);
  sealed.delete(handle);
  clearTimeout(found.expiry);
  return found;
}

async function seal(frame) {
  if (!model) throw new Failure("protocol", "not-loaded", "no model is loaded");
  const kept = decode(fieldsOf(frame), frame);
  if (sealed.size >= CAP.handles) throw new Failure("busy", "too-much-sealed", `${sealed.size} inputs are sealed already`);
  const handle = `sealed-${++seals}`;
  kept.expiry = setTimeout(() => sealed.delete(handle), SEALED_MILLISECONDS);
  sealed.set(handle, kept);
  return { fields: { handle } };
}

async function release(frame) {
  taken(fieldsOf(frame));
  return { fields: {} };
}

const clock = () => Math.round(1e3 * performance.now());

const inParts = (outputs) =>
  Boolean(outputs?.[Symbol.asyncIterator]) || (typeof outputs?.next === "function" && Boolean(outputs[Symbol.iterator]));

async function infer(frame, own) {
  if (!model) throw new Failure("protocol", "not-loaded", "no model is loaded");
  const flow = flows.get(frame.request) ?? new Flow(frame.request, 0);
  const fields = fieldsOf(frame);
  const { values, meta } = frame.flags & FLAG.handle ? taken(fields) : decode(fields, frame);
  const { signal } = own.abort;
  signal.addEventListener("abort", () => flow.wake());
  const began = clock(), traced = (fields.meta ?? meta)["mer.trace"] === true;
  if (traced) own.spans = () => ({ "mer.trace": [["run", began, clock()]] });
  const told = (answer) => (traced ? { ...answer, fields: { ...answer.fields, meta: own.spans() } } : answer);
  const outputs = await model(values, {
    request: own.request, meta: fields.meta ?? meta, signal, tensor, inputs: flow.inputs(signal),
  });
  if (!inParts(outputs)) {
    if (!traced) return encode(outputs);
    const ran = clock(), answer = encode(outputs);
    answer.fields.meta = { "mer.trace": [["run", began, ran], ["write", ran, clock()]] };
    return answer;
  }
  if (!flow.stream) throw new Failure("input", "answers-in-parts", "this model answers in parts: ask for a stream");
  const parts = outputs[Symbol.asyncIterator]?.() ?? outputs;
  try {
    for (;;) {
      await flow.credited(signal);
      const { done, value } = await parts.next();
      if (done) return told(value === undefined ? { fields: { tensors: [] } } : encode(value));
      await flow.send(value, own);
    }
  } catch (error) {
    await parts.return?.(); // its `finally` runs
    throw error;
  }
}

function cancel(request) {
  if (turn?.request === request) turn.abort.abort();
  else if ((request > newest || waiting.some(([frame]) => frame.request === request)) && early.size < CAP.early) early.add(request);
}

// --- frames in

let greeted = false;

function greet(hello) {
  const { min, max } = hello.protocol ?? {};
  if (!Number.isInteger(min) || !Number.isInteger(max)) throw new BrokenStream("a hello says which versions it speaks");
  if (max < VERSION || min > VERSION) {
    throw new BrokenStream(`the other side speaks protocol versions ${min} to ${max}, this one ${VERSION} to ${VERSION}`, "version");
  }
  if (Number.isInteger(hello.limits?.body)) mostBody = Math.min(hello.limits.body, CAP.body);
  greeted = true;
}

function take(frame) {
  const { kind, request, flags } = frame;
  frame.head = headOf(frame);
  if (kind === KIND.hello) greet(fieldsOf(frame));
  else if (kind === KIND.error && request === 0n) process.exit(0);
  else if (!greeted) throw new BrokenStream("the first frame is a hello");
  else if (kind === KIND.load) waiting.push([frame, async () => ({ fields: {}, body: [], ...(await load(frame)) })]);
  else if (kind === KIND.infer) {
    if (flags & (FLAG.more | FLAG.stream)) flows.set(request, new Flow(request, flags));
    waiting.push([frame, infer]);
  } else if (kind === KIND.seal) waiting.push([frame, seal]);
  else if (kind === KIND.release) waiting.push([frame, release]);
  else if (kind === KIND.part) flows.get(request)?.part(frame); // of a request that is over it is ignored
  else if (kind === KIND.credit) flows.get(request)?.grant(frame);
  else if (kind === KIND.cancel) cancel(request);
  else if (kind === KIND.ping) {
    const busy = turn && { request: Number(turn.request), milliseconds: Math.floor(performance.now() - turn.since) };
    send(KIND.pong, { request, fields: { clock: clock(), ...(busy && { busy }) } });
  } else if (kind === KIND.shutdown) process.exit(0);
  else sendError(request, { kind: "protocol", code: "unknown-kind", message: `this worker takes no frames of kind ${kind}` });
  next();
}

// Parses as bytes come; a head and a body are kept only once their lengths were checked, a body in memory of its own.
function* frames() {
  let need = yield* preamble();
  for (;;) {
    const header = yield HEADER;
    const frame = { kind: header[0], flags: header[1], segments: header.readUInt16LE(2), template: header.readUInt32LE(4) };
    frame.request = header.readBigUInt64LE(8);
    frame.number = header.readUInt32LE(20);
    const headBytes = header.readUInt32LE(16), bodyBytes = header.readBigUInt64LE(24);
    if (headBytes > CAP.head) throw new BrokenStream(`a head of ${headBytes} bytes: the cap is ${CAP.head}`);
    if (bodyBytes > BigInt(CAP.body)) throw new BrokenStream(`a body of ${bodyBytes} bytes: the cap is ${CAP.body}`);
    if (frame.segments > CAP.segments) throw new BrokenStream(`${frame.segments} segments: the cap is ${CAP.segments}`);
    if (!frame.kind) throw new BrokenStream("a frame of kind 0");
    frame.head = yield headBytes;
    frame.body = yield Number(bodyBytes);
    take(frame);
  }
}

function* preamble() {
  const got = yield PREAMBLE.length;
  if (!got.equals(PREAMBLE)) throw new BrokenStream("no preamble");
}

const parser = frames();
let wanted = parser.next().value; // how many bytes it waits for
let block = Buffer.allocUnsafeSlow(wanted);
let filled = 0;

function received(bytes) {
  let at = 0;
  for (;;) {
    const count = bytes.copy(block, filled, at);
    at += count;
    filled += count;
    if (filled < wanted) return;
    wanted = parser.next(block).value;
    block = Buffer.allocUnsafeSlow(wanted); // of its own: frames keep what they were given
    filled = 0;
  }
}

process.stdin.on("data", (bytes) => {
  try {
    received(bytes);
  } catch (error) {
    const code = error instanceof BrokenStream ? error.code : "bad-frame";
    sendError(0n, { kind: "protocol", code, message: error.message });
    process.exit(1);
  }
});
process.stdin.on("end", () => process.exit(0)); // the driver is gone
process.stdout.on("error", () => process.exit(1));

write(PREAMBLE);
send(KIND.hello, {
  fields: {
    protocol: { min: VERSION, max: VERSION },
    capabilities: ["in-band", "templates", "stream", "seal", "trace"],
    limits: { head: CAP.head, body: CAP.body },
    runners: ["javascript"],
    pid: process.pid,
    node: process.versions.node,
  },
});
