"""A small web service."""

import os

from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "ok"


@app.get("/square/<int:number>")
def square(number: int) -> object:
    return jsonify(number=number, square=number * number, uid=os.getuid())
