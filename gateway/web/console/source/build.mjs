// Bundles the page into ../static: `node build.mjs [OUTPUT]`. The same sources give the same bytes on every machine.
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const output = process.argv[2] ?? "../static";
await mkdir(output, { recursive: true });
await build({
  entryPoints: { console: "src/main.tsx" },
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "eof",
  charset: "utf8",
  define: { "process.env.NODE_ENV": '"production"' },
  outdir: output,
});
for (const name of ["index.html", "icon.svg"]) await copyFile(name, `${output}/${name}`);
