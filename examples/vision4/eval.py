#!/usr/bin/env python3
"""Accuracy of a merged encoder on every task of this suite. Needs numpy only.

  eval.py MERGED [--split test|val] [--json] [--limit N] [--tasks a,b]
  eval.py --task-models DIR                       # one model per task: DIR/<task>/model.safetensors

MERGED is a .safetensors file or a model folder. Prints per-task accuracy, the average absolute accuracy, and the average normalised accuracy
(accuracy divided by that of the task's own fine-tuned model, stored in suite.json)."""
import argparse, json, os, struct, sys
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
DT = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "I8": "|i1", "BOOL": "|b1"}


def load(path):
    with open(path, "rb") as f: b = f.read()
    n = struct.unpack("<Q", b[:8])[0]; h = json.loads(b[8:8 + n]); out = {}
    for k, m in h.items():
        if k == "__metadata__": continue
        s, e = m["data_offsets"]; buf = b[8 + n + s:8 + n + e]
        a = (np.frombuffer(buf, "<u2").astype(np.uint32) << 16).view(np.float32) if m["dtype"] == "BF16" else np.frombuffer(buf, DT[m["dtype"]])
        out[k] = a.reshape(m["shape"])
    return out


def load_model(path):
    """file, directory with model.safetensors, or directory with a sharded index"""
    if os.path.isdir(path):
        idx = os.path.join(path, "model.safetensors.index.json")
        if os.path.exists(idx):
            w = {}
            for s in sorted(set(json.load(open(idx))["weight_map"].values())): w.update(load(os.path.join(path, s)))
            return w
        path = os.path.join(path, "model.safetensors")
    return load(path)


def erf(x):  # Abramowitz-Stegun 7.1.26, |error| < 1.5e-7
    t = 1 / (1 + 0.3275911 * np.abs(x))
    y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * np.exp(-x * x)
    return np.sign(x) * y


def gelu(x): return (0.5 * x * (1 + erf(x * np.float32(0.70710678)))).astype(np.float32)


def conv_s2(x, w, b):  # x [B,C,H,W], 3x3, stride 2, padding 1
    B, C, H, W = x.shape; p = np.zeros((B, C, H + 2, W + 2), np.float32); p[:, :, 1:-1, 1:-1] = x
    oh, ow = (H + 1) // 2, (W + 1) // 2
    cols = np.stack([p[:, :, i:i + 2 * oh - 1:2, j:j + 2 * ow - 1:2] for i in range(3) for j in range(3)], 2)  # B,C,9,oh,ow
    y = w.reshape(w.shape[0], -1) @ cols.reshape(B, C * 9, oh * ow)
    return y.reshape(B, w.shape[0], oh, ow) + b.reshape(1, -1, 1, 1)


def ln(x, w, b):
    m = x.mean(-1, keepdims=True); v = ((x - m) ** 2).mean(-1, keepdims=True)
    return (x - m) / np.sqrt(v + 1e-5) * w + b


def features(W, x, heads):
    """x float32 [B,1,28,28] in [-1,1] -> [B,d]"""
    g = lambda k: W[k]
    e = "embeddings.patch_embedding."
    h = gelu(conv_s2(x, g(e + "0.weight"), g(e + "0.bias"))); h = gelu(conv_s2(h, g(e + "2.weight"), g(e + "2.bias"))); h = conv_s2(h, g(e + "4.weight"), g(e + "4.bias"))
    B, d = h.shape[:2]; h = h.reshape(B, d, -1).transpose(0, 2, 1)
    h = np.concatenate([np.broadcast_to(g("embeddings.class_embedding"), (B, 1, d)), h], 1) + g("embeddings.position_embedding.weight")
    h = ln(h, g("pre_layrnorm.weight"), g("pre_layrnorm.bias")); T = h.shape[1]; hd = d // heads; i = 0
    while f"layers.{i}.layer_norm1.weight" in W:
        p = f"layers.{i}."; lin = lambda t, n: t @ g(p + n + ".weight").T + g(p + n + ".bias")
        y = ln(h, g(p + "layer_norm1.weight"), g(p + "layer_norm1.bias"))
        q, k, v = (lin(y, f"self_attn.{n}_proj").reshape(B, T, heads, hd).transpose(0, 2, 1, 3) for n in "qkv")
        a = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(hd)); a = np.exp(a - a.max(-1, keepdims=True)); a /= a.sum(-1, keepdims=True)
        h = h + lin((a @ v).transpose(0, 2, 1, 3).reshape(B, T, d), "self_attn.out_proj")
        y = lin(ln(h, g(p + "layer_norm2.weight"), g(p + "layer_norm2.bias")), "mlp.fc1")
        h = h + lin(y / (1 + np.exp(-np.float32(1.702) * y)), "mlp.fc2"); i += 1
    return ln(h[:, 0], g("post_layernorm.weight"), g("post_layernorm.bias"))


def accuracy(W, x, y, head, heads, limit=0):
    if limit: x, y = x[:limit], y[:limit]
    hit = 0
    for s in range(0, len(x), 250):
        f = features(W, x[s:s + 250, None].astype(np.float32) / 127.5 - 1, heads)
        hit += int(((f @ head.T).argmax(1) == y[s:s + 250]).sum())
    return hit / len(x)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("merged", nargs="?"); ap.add_argument("--task-models"); ap.add_argument("--split", default="test")
    ap.add_argument("--json", action="store_true"); ap.add_argument("--limit", type=int, default=0); ap.add_argument("--tasks", default="")
    ap.add_argument("--suite", default=HERE); a = ap.parse_args()
    S = json.load(open(os.path.join(a.suite, "suite.json"))); D = load(os.path.join(a.suite, "data.safetensors")); H = load(os.path.join(a.suite, "heads.safetensors"))
    f32 = lambda w: {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in w.items()}
    W = f32(load_model(a.merged)) if a.merged else None; R = {}
    for t in (a.tasks.split(",") if a.tasks else S["tasks"]):
        Wt = f32(load_model(os.path.join(a.task_models, t))) if a.task_models else W
        if any(not np.isfinite(v).all() for v in Wt.values() if v.dtype.kind == "f"): sys.exit(f"non-finite weights ({t})")
        R[t] = accuracy(Wt, D[f"{t}.{a.split}.images"], D[f"{t}.{a.split}.labels"], H[t].astype(np.float32), S["config"]["heads"], a.limit)
    ref = S["individual"][a.split]; avg = sum(R.values()) / len(R); nrm = sum(R[t] / ref[t] for t in R) / len(R)
    out = {"split": a.split, "per_task": {t: round(100 * v, 2) for t, v in R.items()}, "average": round(100 * avg, 2), "average_normalised": round(100 * nrm, 2)}
    if a.json: print(json.dumps(out))
    else:
        for t, v in R.items(): print(f"{t:10s} {100*v:6.2f}  ({100*v/ref[t]:6.2f} % of individual)")
        print(f"{'average':10s} {100*avg:6.2f}\n{'normalised':10s} {100*nrm:6.2f}")


if __name__ == "__main__": main()
