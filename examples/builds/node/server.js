const express = require("express");
const app = express();

app.get("/health", (_, response) => response.send("ok"));
app.get("/upper/:word", (request, response) =>
  response.json({ word: request.params.word.toUpperCase() }));

const server = app.listen(8080);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
