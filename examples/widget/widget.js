// The widget: asks the service in whose name it was loaded, with the key of the page it stands in.
(() => {
  const script = document.currentScript;
  const service = new URL(script.src).origin;
  const key = script.dataset.key;

  const root = document.createElement("div");
  script.after(root);
  const shadow = root.attachShadow({ mode: "open" });
  shadow.innerHTML = `
    <style>
      * { box-sizing: border-box; margin: 0 }
      :host { display: block; font: 14px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #16181d }
      .card { border: 1px solid #e3e6ec; border-radius: 12px; overflow: hidden; background: #fff }
      .ask { display: flex; align-items: center; gap: 14px; padding: 16px 18px }
      .ask b { flex: 1; font-size: 15px }
      .ask small { display: block; font-weight: 400; font-size: 12px; color: #667085 }
      button { padding: 9px 16px; border: 0; border-radius: 8px; background: #3b5bdb; color: #fff; font: inherit; font-weight: 600; cursor: pointer }
      button:hover { background: #364fc7 }
      .result { display: flex; align-items: center; gap: 10px; padding: 12px 18px; border-top: 1px solid #e3e6ec; font-weight: 600 }
      .result.good { background: #ebfbee; color: #2b8a3e }
      .result.bad { background: #fff5f5; color: #c92a2a }
      h2 { margin: 18px 0 6px; font-size: 11px; letter-spacing: .08em; text-transform: uppercase; color: #667085 }
      pre { padding: 12px 14px; border-radius: 10px; background: #1b1f2a; color: #d7deea; white-space: pre-wrap; overflow-wrap: anywhere;
            font: 12px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; min-height: 44px }
      pre u { color: #8fa3c7; text-decoration: none }
      pre .good { color: #8ce99a } pre .bad { color: #ffa8a8 }
      [hidden] { display: none !important }
    </style>
    <div class="card">
      <div class="ask"><b>Are you over 18?<small>checked by ${new URL(service).hostname}</small></b><button>Check my age</button></div>
      <div class="result" hidden></div>
    </div>
    <div class="wire" hidden>
      <h2>The request it sent</h2><pre class="request"></pre>
      <h2>The answer it got</h2><pre class="answer"></pre>
    </div>`;
  const at = name => shadow.querySelector(name);

  // Text, with the names of the fields paler than their values.
  function show(pre, first, fields, body = "") {
    pre.replaceChildren(first, "\n");
    for (const [name, value] of fields) {
      const label = document.createElement("u");
      label.textContent = `${name}: `;
      pre.append(label, `${value}\n`);
    }
    if (body) pre.append(`\n${body}`);
  }

  function result(good, text) {
    at(".result").className = `result ${good ? "good" : "bad"}`;
    at(".result").textContent = `${good ? "✓" : "✕"} ${text}`;
    at(".result").hidden = false;
  }

  at("button").onclick = async () => {
    at(".wire").hidden = false;
    show(at(".request"), `POST ${service}/check`, [
      ["Origin", `${location.origin}  ← the browser wrote this`],
      ["X-Client-Key", `${key.slice(0, 10)}…${key.slice(-4)}`],
    ]);
    try {
      const headers = { "X-Client-Key": key };
      const answer = await fetch(`${service}/check`, { method: "POST", headers });
      const text = await answer.text();
      const body = JSON.parse(text);
      const status = document.createElement("span");
      status.className = answer.ok ? "good" : "bad";
      status.textContent = `${answer.status} ${answer.statusText}`;
      const shown = ["content-type", "retry-after", "www-authenticate"];
      const fields = shown.map(name => [name, answer.headers.get(name)]);
      show(at(".answer"), status, fields.filter(([, value]) => value), JSON.stringify(body, null, 2));
      result(answer.ok, answer.ok ? "You are over 18" : `Not checked: ${body.code}`);
    } catch (error) {
      show(at(".answer"), `no answer that a page may read (${error})`, []);
      result(false, "Not checked: the service cannot be reached");
    }
  };
})();
