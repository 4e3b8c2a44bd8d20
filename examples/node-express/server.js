// The smallest Express app.

const express = require("express");

const port = Number(process.env.PORT || 8080);
const release = process.env.INSULA_RELEASE || "no release";
const app = express();

app.get("/", (request, response) => {
  response.type("text").send(`Hello from Express, ${release}\n`);
});
app.get("/healthz", (request, response) => {
  response.type("text").send("ok\n");
});

const server = app.listen(port, () => console.log(`listening on port ${port}, ${release}`));

process.on("SIGTERM", () => {
  server.close(() => console.log("stopped"));
  // Node 18 waits for connections that nobody uses any more.
  server.closeIdleConnections();
});
