// Compiles src/ and test/harness/ with the settings of foundry.toml: one JSON per contract.
// usage: node tools/compile.mjs [--out DIR] [--project DIR] [FILE.sol ...]
//
// Each file with contracts is compiled by itself with what it imports and nothing else, so that a
// contract's bytecode never depends on which other files happen to be in the tree, and files
// compile side by side. Files of interfaces, libraries and abstract contracts are compiled
// together, for their ABI. Results are kept in cache/solc under the hash of all that went in.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const tools = path.dirname(new URL(import.meta.url).pathname);
const args = process.argv.slice(2);
const option = (name, otherwise) => {
  const at = args.indexOf(name);
  return path.resolve(at < 0 ? otherwise : args.splice(at, 2)[1]);
};
const project = option("--project", path.dirname(tools));
const out = option("--out", path.join(project, "out", "artifacts"));
const cache = process.env.ADYTON_SOLC_CACHE ?? path.join(path.dirname(tools), "cache", "solc");
const EIP_170 = 24576;

const read = (name) => fs.readFileSync(path.join(project, name), "utf8");
const sources = (folder) =>
  !fs.existsSync(path.join(project, folder)) ? [] :
  fs.readdirSync(path.join(project, folder), { recursive: true })
    .filter((name) => name.endsWith(".sol"))
    .map((name) => path.join(folder, name))
    .sort();

const toml = read("foundry.toml");
const setting = (name) => toml.match(new RegExp(`^${name} = "?([^"\\n]*)"?$`, "m"))[1];
const settings = {
  evmVersion: setting("evm_version"),
  viaIR: setting("via_ir") === "true",
  optimizer: { enabled: setting("optimizer") === "true", runs: Number(setting("optimizer_runs")) },
  metadata: { bytecodeHash: setting("bytecode_hash"), appendCBOR: setting("cbor_metadata") === "true" },
};
// For tests of tests, which compile hundreds of times: the same meaning, three times as fast, twice
// the size.
if (process.env.ADYTON_SOLC_QUICK) {
  const off = Object.fromEntries(["peephole", "jumpdestRemover", "deduplicate", "cse", "constantOptimizer",
    "inliner"].map((name) => [name, false]));
  const yulDetails = { stackAllocation: true, optimizerSteps: "u:fDnTOcmu" };
  settings.optimizer.details = { ...off, yul: true, yulDetails };
}
const solcVersion = JSON.parse(read("package.json")).devDependencies.solc;

// A source's text and its imports' names, as solc names them: relative ones resolved, packages' kept.
const loaded = new Map();
function load(name) {
  if (!loaded.has(name)) {
    const file = [name, path.join("node_modules", name)].find((f) => fs.existsSync(path.join(project, f)));
    if (!file) throw new Error(`${name} not found`);
    const content = read(file);
    const bare = content.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    const imports = [...bare.matchAll(/^\s*import\s[^;]*?"([^"]+)"/gm)].map(([, target]) =>
      target.startsWith(".") ? path.posix.join(path.posix.dirname(name), target) : target);
    loaded.set(name, { content, bare, imports });
  }
  return loaded.get(name);
}

function closure(name, found = new Set()) {
  if (!found.has(name)) {
    found.add(name);
    for (const target of load(name).imports) closure(target, found);
  }
  return found;
}

function unit(files, outputs) {
  const names = new Set(files.flatMap((file) => [...closure(file)]));
  const input = {
    language: "Solidity",
    sources: Object.fromEntries([...names].sort().map((name) => [name, { content: load(name).content }])),
    settings: {
      ...settings,
      outputSelection: Object.fromEntries(files.map((file) => [file, { "*": outputs }])),
    },
  };
  const text = JSON.stringify(input);
  return { files, text, key: createHash("sha256").update(solcVersion).update(text).digest("hex") };
}

function solc(text) {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, ADYTON_NODE: process.execPath };
    const child = spawn(path.join(tools, "solc"), ["--standard-json"],
      { cwd: project, env, stdio: ["pipe", "pipe", "inherit"] });
    const parts = [];
    child.stdout.on("data", (part) => parts.push(part));
    child.on("error", reject);
    child.on("close", (code) =>
      code ? reject(new Error(`solc ended with ${code}`)) : resolve(JSON.parse(Buffer.concat(parts))));
    child.stdin.end(text);
  });
}

function kind(file, name) {
  const found = load(file).bare.match(new RegExp(`^(abstract contract|contract|library|interface) ${name}\\b`, "m"));
  return found[1];
}

async function compiled({ files, text, key }) {
  const kept = path.join(cache, `${key}.json`);
  if (fs.existsSync(kept)) return JSON.parse(fs.readFileSync(kept, "utf8"));
  const started = Date.now();
  const result = await solc(text);
  const errors = (result.errors ?? []).filter((e) => e.severity === "error" || process.env.ADYTON_SOLC_WARNINGS);
  for (const e of errors) process.stderr.write(e.formattedMessage + "\n");
  if (errors.some((e) => e.severity === "error")) return null;
  const artefacts = files.flatMap((file) =>
    Object.entries(result.contracts?.[file] ?? {}).map(([name, c]) => ({
      contract: name,
      source: file,
      kind: kind(file, name),
      size: (c.evm?.deployedBytecode.object ?? "").length / 2,
      abi: c.abi,
      bytecode: c.evm?.bytecode.object ?? "",
    })));
  fs.mkdirSync(cache, { recursive: true });
  fs.writeFileSync(`${kept}.${process.pid}`, JSON.stringify(artefacts));
  fs.renameSync(`${kept}.${process.pid}`, kept);
  process.stderr.write(`[solc] ${files.length > 1 ? `${files.length} files` : files[0]} ${((Date.now() - started) / 1000).toFixed(1)} s\n`);
  return artefacts;
}

const everything = args.length === 0;
const files = everything ? [...sources("src"), ...sources("test/harness")]
  : args.map((f) => path.relative(project, path.resolve(f)));
const concrete = files.filter((file) => /^contract /m.test(load(file).bare));
const abstract = files.filter((file) => !concrete.includes(file));
const units = concrete.map((file) => unit([file], ["abi", "evm.bytecode", "evm.deployedBytecode.object"]))
  .sort((a, b) => b.text.length - a.text.length);
if (abstract.length) units.push(unit(abstract, ["abi"]));
const written = new Set();
let failed = false;
async function work() {
  for (let next = units.shift(); next; next = units.shift()) {
    const artefacts = await compiled(next);
    failed ||= artefacts === null;
    for (const artefact of artefacts ?? []) {
      if (written.has(artefact.contract)) throw new Error(`two contracts are named ${artefact.contract}`);
      written.add(artefact.contract);
      if (artefact.size > EIP_170 && !process.env.ADYTON_SOLC_QUICK) {
        process.stderr.write(`${artefact.contract}: ${artefact.size} bytes, over EIP-170\n`);
        failed ||= artefact.source.startsWith("src/");
      }
      fs.writeFileSync(path.join(out, `${artefact.contract}.json`), JSON.stringify(artefact, null, 1) + "\n");
    }
  }
}
fs.mkdirSync(out, { recursive: true });
const workers = Number(process.env.ADYTON_SOLC_JOBS ?? os.availableParallelism());
await Promise.all(Array.from({ length: workers }, work));
if (failed) process.exit(1);
if (everything) {
  for (const name of fs.readdirSync(out)) {
    if (name.endsWith(".json") && !written.has(name.slice(0, -5))) fs.unlinkSync(path.join(out, name));
  }
}
