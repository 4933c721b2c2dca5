// Compiles src/ (and test harnesses in test/harness/) with the settings of foundry.toml.
// usage: node tools/compile.mjs [--out DIR] [FILE.sol ...]   one JSON per contract: abi, bytecode, size
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const project = path.dirname(path.dirname(new URL(import.meta.url).pathname));
const solc = createRequire(path.join(project, "package.json"))("solc");
const args = process.argv.slice(2);
const at = args.indexOf("--out");
const out = path.resolve(at < 0 ? path.join(project, "out", "artifacts") : args.splice(at, 2)[1]);
const sources = (folder) =>
  !fs.existsSync(path.join(project, folder)) ? [] :
  fs.readdirSync(path.join(project, folder), { recursive: true })
    .filter((name) => name.endsWith(".sol"))
    .map((name) => path.join(folder, name));
const files = args.length ? args.map((f) => path.relative(project, path.resolve(f)))
  : [...sources("src"), ...sources("test/harness")];

const toml = fs.readFileSync(path.join(project, "foundry.toml"), "utf8");
const setting = (name) => toml.match(new RegExp(`^${name} = "?([^"\\n]*)"?$`, "m"))[1];
const input = {
  language: "Solidity",
  sources: Object.fromEntries(files.map((f) =>
    [f, { content: fs.readFileSync(path.join(project, f), "utf8") }])),
  settings: {
    evmVersion: setting("evm_version"),
    viaIR: setting("via_ir") === "true",
    optimizer: { enabled: true, runs: Number(setting("optimizer_runs")) },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const read = (name) => {
  const file = [name, path.join("node_modules", name)].map((n) => path.join(project, n))
    .find((f) => fs.existsSync(f));
  return file ? { contents: fs.readFileSync(file, "utf8") } : { error: `${name} not found` };
};
const result = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));
const errors = result.errors ?? [];
for (const e of errors) process.stderr.write(e.formattedMessage + "\n");
if (errors.some((e) => e.severity === "error")) process.exit(1);
fs.mkdirSync(out, { recursive: true });
for (const [file, contracts] of Object.entries(result.contracts)) {
  if (!files.includes(file)) continue;
  for (const [name, c] of Object.entries(contracts)) {
    const size = c.evm.deployedBytecode.object.length / 2;
    const artefact = { contract: name, source: file, size, abi: c.abi, bytecode: c.evm.bytecode.object };
    fs.writeFileSync(path.join(out, `${name}.json`), JSON.stringify(artefact, null, 1) + "\n");
    if (size > 24576) { process.stderr.write(`${name}: ${size} bytes, over EIP-170\n`); }
  }
}
