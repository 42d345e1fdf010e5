// Drives the engine at $DOCKER_SOCKET through dockerode and prints what it saw as one JSON object.
const Docker = require("dockerode");
const { PassThrough } = require("stream");

const docker = new Docker({ socketPath: process.env.DOCKER_SOCKET });

function collected() {
  const sink = new PassThrough();
  sink.text = "";
  sink.on("data", (data) => (sink.text += data));
  return sink;
}

async function main() {
  const seen = { api: (await docker.version()).ApiVersion };
  const events = await docker.getEvents({ filters: { type: ["container"] } });
  const heard = collected();
  events.pipe(heard);
  const container = await docker.createContainer({
    Image: "busybox",
    Cmd: ["sh", "-c", "cat; echo err >&2; exit 3"],
    OpenStdin: true,
    StdinOnce: true,
    Labels: { by: "dockerode" },
  });
  const stream = await container.attach({
    stream: true, stdin: true, stdout: true, stderr: true, hijack: true,
  });
  const [out, err] = [collected(), collected()];
  container.modem.demuxStream(stream, out, err);
  const ended = container.wait({ condition: "next-exit" });
  await container.start();
  stream.end("through dockerode");
  seen.code = (await ended).StatusCode;
  await new Promise((done) => (stream.readableEnded ? done() : stream.once("end", done)));
  [seen.out, seen.err] = [out.text, err.text];
  seen.listed = (
    await docker.listContainers({ all: true, filters: { label: ["by=dockerode"] } })
  ).length;
  const network = await docker.createNetwork({ Name: "by-dockerode" });
  seen.driver = (await network.inspect()).Driver;
  await network.remove();
  await container.remove({ v: true });
  seen.logs = heard.text.includes('"die"');
  events.destroy();
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
