// A web app of nothing but Node's own modules.

const http = require("node:http");

const port = Number(process.env.PORT || 8080);
const release = process.env.INSULA_RELEASE || "no release";

const server = http.createServer((request, response) => {
  const path = request.url.split("?")[0];
  const [status, text] =
    path === "/" ? [200, `Hello from Node, ${release}\n`]
    : path === "/healthz" ? [200, "ok\n"]
    : [404, "nothing here\n"];
  response.on("finish", () => console.log(request.method, request.url, status));
  response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8" });
  response.end(text);
});

server.listen(port, () => console.log(`listening on port ${port}, ${release}`));

process.on("SIGTERM", () => {
  server.close(() => console.log("stopped"));
  // Node 18 waits for connections that nobody uses any more.
  server.closeIdleConnections();
});
