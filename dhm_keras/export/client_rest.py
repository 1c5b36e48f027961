"""Asks TensorFlow Serving over REST what is on images. Needs Python alone.

python client_rest.py IMAGE...
"""

import argparse
import base64
import http.client
import json
import pathlib
import sys
import urllib.error
import urllib.request

NAME = "model"  # as in models.config


def predict(image, url, name):
    """What the server answers for one image.

    Args:
        image: Bytes of a JPEG or PNG file.
        url: String, as `"http://localhost:8501"`.
        name: String. The model's name.

    Returns:
        Dict from the name of an output to its value for this image: `logits` and `probabilities` of all classes,
        `classes`, `scores` and, where known, `class_names` of the best ones; or `embedding` alone.
    """
    body = {"signature_name": "image_bytes", "instances": [{"b64": base64.b64encode(image).decode()}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/models/{name}:predict", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)["predictions"][0]
    return answer if isinstance(answer, dict) else {"embedding": answer}  # a server does not name an only output


def main():
    parser = argparse.ArgumentParser(description="Prints the best classes of each image, or what it is compared by.")
    parser.add_argument("images", nargs="+", type=pathlib.Path, metavar="IMAGE", help="JPEG or PNG file")
    parser.add_argument("--url", default="http://localhost:8501", help="of the server (default: %(default)s)")
    parser.add_argument("--name", default=NAME, help="of the model (default: %(default)s)")
    options = parser.parse_args()
    if "://" not in options.url:
        options.url = f"http://{options.url}"
    for path in options.images:
        try:
            answer = predict(path.read_bytes(), options.url, options.name)
        except urllib.error.HTTPError as error:
            sys.exit(f"{path}: the server answers {error.code}, {reason(error)}")
        except urllib.error.URLError as error:
            sys.exit(f"No server answers at {options.url} ({error.reason}).")
        except (http.client.HTTPException, json.JSONDecodeError):
            sys.exit(f"What answers at {options.url} is no REST interface of TensorFlow Serving; its port is 8501.")
        except OSError as error:
            sys.exit(f"{path}: {error.strerror or error}")
        print(path)
        if "classes" not in answer:
            print(*(f"{number:.6g}" for number in answer["embedding"]))
            continue
        names = answer.get("class_names", [""] * len(answer["classes"]))
        for number, score, name in zip(answer["classes"], answer["scores"], names):
            print(f"{100 * score:7.2f} %  {number} {name}")


def reason(error):
    """The server's own words on one line; something between that is no server of models sends no JSON."""
    try:
        return " ".join(json.load(error)["error"].split())
    except (ValueError, KeyError, TypeError):
        return error.reason


if __name__ == "__main__":
    main()
