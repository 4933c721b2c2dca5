// What the Python package carries of the contracts: ABI and bytecode of all that can be deployed.
// usage: node tools/artefacts.mjs check|write     after tools/compile.mjs; check changes nothing
import fs from "node:fs";
import path from "node:path";

const project = path.dirname(path.dirname(new URL(import.meta.url).pathname));
const compiled = path.join(project, "out", "artifacts");
const carried = path.join(project, "..", "attestation", "onchain", "artifacts");
const list = (folder) =>
  fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")).sort() : [];

const due = new Map();
for (const name of list(compiled)) {
  const artefact = JSON.parse(fs.readFileSync(path.join(compiled, name), "utf8"));
  if (artefact.kind !== "contract" || !artefact.source.startsWith("src/")) continue;
  if (!/^[0-9a-f]+$/.test(artefact.bytecode)) throw new Error(`${name}: no bytecode, or unlinked`);
  due.set(name, JSON.stringify(artefact) + "\n");
}
if (!due.size) throw new Error("nothing is compiled: run tools/compile.mjs first");

const wrong = [];
for (const name of new Set([...due.keys(), ...list(carried)])) {
  const file = path.join(carried, name);
  const is = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : undefined;
  if (is === due.get(name)) continue;
  wrong.push(`${name} ${is === undefined ? "is missing" : due.has(name) ? "differs" : "is of no contract"}`);
  if (process.argv[2] !== "write") continue;
  if (!due.has(name)) fs.unlinkSync(file);
  else {
    fs.mkdirSync(carried, { recursive: true });
    fs.writeFileSync(file, due.get(name));
  }
}
if (process.argv[2] === "write") {
  console.log(`[contracts] ${due.size} artefacts, ${wrong.length} rewritten`);
} else if (wrong.length) {
  console.error(`[contracts] attestation/onchain/artifacts is not what src compiles to:`);
  for (const line of wrong) console.error(`  ${line}`);
  console.error("  run make artefacts, and look at what changed before committing it");
  process.exit(1);
} else console.log(`[contracts] ${due.size} artefacts are what src compiles to`);
