// Call the server over HTTP from JavaScript, in Node 18 or newer or in a browser.
// Start a server first:  bert-serving-start -http_port 8125
//
//   node example/http_call.mjs [address of the server]

const url = globalThis.process?.argv[2] ?? "http://localhost:8125";

await fetch(`${url}/healthz`).catch((error) => {
  console.error(`${url}: ${error.cause?.message ?? error.message}; start a server with -http_port 8125`);
  globalThis.process?.exit(1);
});

/** Return the vectors of texts as an array of Float32Array. Throws an Error with the message of the server. */
async function encode(texts) {
  const reply = await fetch(`${url}/encode`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/octet-stream" },
    body: JSON.stringify({ texts }),
  });
  if (!reply.ok) throw new Error((await reply.json()).description);
  const [, width] = reply.headers.get("X-Shape").split(",").map(Number);
  const numbers = new Float32Array(await reply.arrayBuffer()); // little-endian
  return texts.map((_, row) => numbers.subarray(row * width, (row + 1) * width));
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

const texts = ["A man is playing a guitar.", "Someone strums an acoustic guitar.", "The stock market fell today."];
const vectors = await encode(texts);
console.log(`${vectors.length} vectors of ${vectors[0].length} numbers`);
for (const [row, text] of texts.entries()) {
  console.log(cosine(vectors[0], vectors[row]).toFixed(2), text);
}

// The same in plain JSON, as in 1.10.
const reply = await fetch(`${url}/encode`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ id: 123, texts, is_tokenized: false }),
});
const { id, result, status } = await reply.json();
console.log(`id ${id}, status ${status}, ${result.length} x ${result[0].length}`);

await encode([]).catch((error) => console.log("an error:", error.message));
