// A WebSocket that is led by lines: what comes on stdin is sent, what happens is
// printed, as JSON. By Node's own client where "builtin" is asked for, else by ws.
const [url, kind] = process.argv.slice(2);
const WebSocket = kind === 'builtin' ? globalThis.WebSocket : require('ws');
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const socket = new WebSocket(url, ['echo']);
socket.binaryType = 'arraybuffer';
socket.onopen = () => say({ open: socket.protocol });
socket.onerror = (e) => say({ error: String(e.message || e.error) });
socket.onmessage = (e) => say(typeof e.data === 'string' ? { text: e.data } : { bytes: e.data.byteLength });
socket.onclose = (e) => { say({ code: e.code, reason: e.reason }); process.exit(0); };
let rest = '';
process.stdin.on('data', (d) => {
  const lines = (rest + d).split('\n');
  rest = lines.pop();
  for (const line of lines) {
    if (line.startsWith('binary ')) socket.send(new Uint8Array(+line.slice(7)));
    else if (line === 'bye') socket.close(1000, 'bye');
    else socket.send(line);
  }
});
