// Drawing on canvases: one dimension of an action over time, in its unit; and the sparkline of the request rate.

const INK = "#16202b", QUIET = "#5a6875", LINE = "#d5dbe1", ACCENT = "#0b6bcb", SECOND = "#d9730d";

function prepared(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 240, height = canvas.clientHeight || 140;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return { pen, width, height };
}

// values: one per step; probabilities: of the token that says it, or null; executed: steps that are carried out; at: a cursor.
export function plotDimension(canvas, { name, unit, low, high, values, hz, executed = 0, probabilities = null, at = null }) {
  const { pen, width, height } = prepared(canvas);
  // The middle of -0.1 and 0.1 may be 1e-17.
  const ticks = [low, (low + high) / 2, high].map((v) => [v, `${Math.abs(v) < 1e-9 * (high - low) ? 0 : Number(v.toPrecision(3))}`]);
  const left = 10 + Math.ceil(Math.max(...ticks.map(([, text]) => pen.measureText(text).width)));
  const right = width - 8, top = 28, bottom = height - (probabilities ? 34 : 18);
  const steps = values.length, x = (i) => left + ((right - left) * i) / steps, y = (v) => bottom - ((bottom - top) * (v - low)) / (high - low);
  pen.fillStyle = INK;
  // A long name is written narrower.
  pen.fillText(unit ? `${name} (${unit})` : name, 6, 13, width - 12);
  if (executed) {
    pen.fillStyle = "#eef5fc";
    pen.fillRect(left, top, x(Math.min(executed, steps)) - left, bottom - top);
  }
  pen.strokeStyle = LINE;
  pen.fillStyle = QUIET;
  pen.textAlign = "right";
  for (const [tick, text] of ticks) {
    pen.beginPath();
    pen.moveTo(left, y(tick));
    pen.lineTo(right, y(tick));
    pen.stroke();
    pen.fillText(text, left - 4, y(tick) + 4);
  }
  pen.fillText(`${(steps / hz).toFixed(1)} s`, right, height - 5);
  pen.textAlign = "left";
  pen.strokeStyle = ACCENT;
  pen.lineWidth = 2;
  pen.beginPath();
  values.forEach((value, i) => {
    const clamped = y(Math.min(Math.max(value, low), high));
    pen.lineTo(x(i), clamped);
    pen.lineTo(x(i + 1), clamped);
  });
  pen.stroke();
  if (probabilities) {
    probabilities.forEach((p, i) => {
      pen.fillStyle = p < 0.5 ? SECOND : "#7fb2e5";
      pen.fillRect(x(i) + 1, bottom + 16 - 12 * p, Math.max(x(1) - x(0) - 2, 1), 12 * p);
    });
    pen.fillStyle = QUIET;
    pen.textAlign = "right";
    pen.fillText("p", left - 4, bottom + 14);
    pen.textAlign = "left";
  }
  if (at !== null) {
    pen.strokeStyle = SECOND;
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x(at), top);
    pen.lineTo(x(at), bottom);
    pen.stroke();
  }
  canvas.title = values.map((value) => Number(value.toPrecision(4))).join(", ");
}

export function sparkline(canvas, values) {
  const { pen, width, height } = prepared(canvas);
  const most = Math.max(1, ...values);
  pen.strokeStyle = ACCENT;
  pen.beginPath();
  values.forEach((value, i) => pen.lineTo((width * i) / 120, height - 2 - ((height - 4) * value) / most));
  pen.stroke();
}

export function cross(canvas, [u, v], colour = "#ff2d95") {
  const pen = canvas.getContext("2d"), x = u * canvas.width, y = v * canvas.height, arm = canvas.width / 12;
  pen.strokeStyle = colour;
  pen.lineWidth = Math.max(canvas.width / 80, 1);
  pen.beginPath();
  pen.moveTo(x - arm, y); pen.lineTo(x + arm, y);
  pen.moveTo(x, y - arm); pen.lineTo(x, y + arm);
  pen.stroke();
}
