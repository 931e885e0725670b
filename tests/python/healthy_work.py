"""Ordinary work of a node that runs machine learning, a part a run: nothing in it may raise an alarm.

    healthy_work.py train FOLDER       torch on the CPU: worker processes, checkpoints written and read again, TorchScript
    healthy_work.py search FOLDER      scikit-learn: a search with joblib's worker processes, the best model saved and loaded
    healthy_work.py notebook FOLDER    a Jupyter kernel that runs cells, among them the shell commands people write there
    healthy_work.py serve FOLDER       a FastAPI server with two workers and a model, asked some thousand times
"""

import os
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path()


def train():
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(net.parameters())
    data = torch.utils.data.TensorDataset(torch.randn(4096, 16), torch.randint(0, 2, (4096,)))
    loader = torch.utils.data.DataLoader(data, batch_size=64, num_workers=2, shuffle=True)
    checkpoint = FOLDER / "checkpoint.pt"
    for epoch in range(3):
        for rows, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(rows), labels).backward()
            optimizer.step()
        torch.save({"epoch": epoch, "net": net.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["net"])
    torch.save(net, FOLDER / "whole.pth")
    torch.load(FOLDER / "whole.pth", weights_only=False)
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 16)), FOLDER / "traced.pt")
    torch.jit.load(FOLDER / "traced.pt")(torch.zeros(2, 16))


def search():
    import joblib
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    rows, labels = make_classification(600, random_state=0)
    found = GridSearchCV(RandomForestClassifier(random_state=0), {"max_depth": [2, 4, 8]}, n_jobs=2, cv=3)
    found.fit(rows, labels)
    joblib.dump(found.best_estimator_, FOLDER / "forest.joblib", compress=3)
    joblib.load(FOLDER / "forest.joblib").predict(rows)


CELLS = [
    "import torch; torch.ones(3).sum().item()",
    "!ls -la && python --version",
    "%pip list",
    "%%bash\nuname -a; df -h . | tail -1",
    "import subprocess; subprocess.run(['nvidia-smi'], check=False) if __import__('shutil').which('nvidia-smi') else None",
    "import pickle; pickle.loads(pickle.dumps({'a': [1, 2, 3]}))",
]


def notebook():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(FOLDER))
    try:
        for cell in CELLS:
            reply = client.execute_interactive(cell, timeout=300, output_hook=lambda message: None)
            assert reply["content"]["status"] == "ok", (cell, reply["content"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


SERVER = """
import joblib, fastapi
model = joblib.load("served.joblib")
app = fastapi.FastAPI()

@app.post("/predict")
def predict(rows: list[list[float]]):
    return model.predict(rows).tolist()
"""


def serve():
    import httpx
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), FOLDER / "served.joblib")
    (FOLDER / "served.py").write_text(SERVER)
    # Port 0 cannot be asked of several workers: the kernel would give each its own.
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--workers", "2", "--log-level", "warning"]
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", "served:app", *options], cwd=FOLDER)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            deadline = time.monotonic() + 240
            while True:
                try:
                    client.post("/predict", json=[[0.0]])
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline and server.poll() is None, "the server does not come up"
                    time.sleep(0.1)
            for number in range(2000):
                answer = client.post("/predict", json=[[float(number % 2)]])
                assert answer.json() == [number % 2], answer.text
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    os.chdir(FOLDER)
    {"train": train, "search": search, "notebook": notebook, "serve": serve}[sys.argv[1]]()
