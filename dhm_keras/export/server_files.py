"""The files beside the versions that TensorFlow Serving and its clients need."""

import pathlib

from dhm_keras.files import replacing

IMAGE = "tensorflow/serving:2.21.0"  # reads what TensorFlow 2.21 and older write

# The folder of versions is mounted at /models/NAME, with these files in it.
MODELS = """\
# Which models are served. The server reads this file again every ten seconds.
model_config_list {
  config {
    name: "NAME"
    base_path: "/models/NAME"
    model_platform: "tensorflow"
    # The newest version. To go back to an older one: specific { versions: 1 }
    model_version_policy { latest { num_versions: 1 } }
  }
}
"""

BATCHING = """\
# Requests that come at about the same time are computed as one batch; read when the server starts.

# The largest batch, and the largest request: one with more images is refused. On a GPU as many as it computes well.
max_batch_size { value: 64 }

# How long the first request of a batch waits for others, in microseconds: a lone request takes longer by this much.
# On a CPU try 0 to 10000; where requests are many, batches are full before the time is over.
batch_timeout_micros { value: 1000 }

# Batches that may wait. When there are more, requests are refused as UNAVAILABLE: few keep the answers quick.
max_enqueued_batches { value: 100 }

# Batches that are computed at the same time. Without this line as many as the server has cores.
# num_batch_threads { value: 4 }
"""

COMPOSE = """\
# `docker compose up` in this folder serves the newest version in it.
services:
  serving:
    image: IMAGE  # with the last lines: IMAGE-gpu
    platform: linux/amd64  # there is no other: a machine with an ARM processor emulates it
    # The image's entry point adds --port=8500 --rest_api_port=8501.
    command:
      - --model_config_file=/models/NAME/models.config
      - --model_config_file_poll_wait_seconds=10
      - --enable_batching=true
      - --batching_parameters_file=/models/NAME/batching.config
    volumes:
      - .:/models/NAME:ro
    # For this machine alone, as the server asks nobody for a password. "8501:8501" opens it to others.
    ports:
      - "127.0.0.1:8500:8500"  # gRPC
      - "127.0.0.1:8501:8501"  # REST
    # Healthy when a version is ready. The image has bash, and no curl.
    healthcheck:
      test:
        - CMD
        - bash
        - -c
        - >-
          exec 3<>/dev/tcp/127.0.0.1/8501 &&
          printf 'GET /v1/models/NAME HTTP/1.0\\r\\n\\r\\n' >&3 &&
          grep -q '"AVAILABLE"' <&3
      interval: 10s
      timeout: 5s
      start_period: 60s
    init: true  # stops at once
    restart: unless-stopped
    # An NVIDIA GPU, with its container toolkit:
    # deploy:
    #   resources:
    #     reservations:
    #       devices:
    #         - driver: nvidia
    #           count: 1
    #           capabilities: [gpu]
"""


def write_server_files(directory, name):
    """Writes what a server and its clients need beside the versions, where it is missing.

    `models.config` and `batching.config` are for TensorFlow Serving, `compose.yaml` starts it in its public image,
    `client_rest.py` and `client_grpc.py` ask it. A file that is there stays as it is: it may have been edited.

    Example:

    ```python
    write_server_files("serving/resnet32", "resnet32")  # then: cd serving/resnet32 && docker compose up
    ```

    Args:
        directory: Path of the folder of versions.
        name: String. The name under which the model is served, of letters, digits, `_`, `.` and `-`.

    Raises:
        OSError: if a file cannot be written.
    """
    texts = {"models.config": MODELS, "batching.config": BATCHING, "compose.yaml": COMPOSE.replace("IMAGE", IMAGE)}
    texts = {file: text.replace("NAME", name) for file, text in texts.items()}
    for file in ("client_rest.py", "client_grpc.py"):
        client = pathlib.Path(__file__).with_name(file).read_text(encoding="utf-8")
        texts[file] = client.replace('NAME = "model"', f'NAME = "{name}"', 1)
    for file, text in texts.items():
        path = pathlib.Path(directory, file)
        if not path.exists():
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
