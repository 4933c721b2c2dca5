// Answers as native solc does for what forge asks: --version, and --standard-json on stdin.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const project = path.dirname(path.dirname(new URL(import.meta.url).pathname));
const solc = createRequire(path.join(project, "package.json"))("solc");
const args = process.argv.slice(2);
if (args.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface");
  console.log("Version: " + solc.version().replace("Emscripten.clang", "Linux.g++"));
  process.exit(0);
}
const values = (flag) => args.flatMap((arg, i) => (arg === flag ? [args[i + 1]] : []));
const folders = [...values("--base-path"), ...values("--include-path"), process.cwd()];
const read = (name) => {
  const file = folders.map((folder) => path.join(folder, name)).find((f) => fs.existsSync(f));
  return file ? { contents: fs.readFileSync(file, "utf8") } : { error: `${name} not found` };
};
process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: read }));
