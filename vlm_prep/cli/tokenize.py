"""`vlm-prep tokenize`: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_prep.cli import options
from vlm_prep.cli.place import place_for, run_and_show
from vlm_prep.core.errors import InputError
from vlm_prep.core.settings import CheckMedia, Overlong, TokenizeConfig


def command(
    source: Annotated[str, typer.Argument(help="A meta JSON, a data file, a dataset folder, or an ingested folder.")],
    processor: Annotated[
        str, typer.Option("--processor", "-p", help="Hugging Face id, folder, or builtin:qwen2.5-vl-mini.")
    ],
    out: options.Out = None,
    work_dir: options.WorkDir = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Most tokens in a row. [default: no limit]")] = None,
    overlong: Annotated[
        Overlong, typer.Option(help="Longer rows: reject, cut whole turns off the end, or stop.")
    ] = "drop",
    media: options.MediaPayload = "encoded",
    audio: options.AudioPayloadOption = "waveform",
    train_on: options.TrainOnOption = "assistant",
    train_end: options.TrainEndOption = "all",
    train_reasoning: options.TrainReasoning = True,
    train_tool_calls: options.TrainToolCalls = True,
    rewritten_history: options.RewrittenHistoryOption = "reject",
    loss_weights: options.LossWeights = False,
    thinking_prefix: options.ThinkingPrefix = False,
    control_tokens: options.ControlTokensOption = "text",
    tool_text: options.ToolTextOption = "inline",
    check_media: Annotated[
        CheckMedia, typer.Option(help="Read headers and ends of pictures, or decode each one to find inner damage.")
    ] = "header",
    max_image_pixels: options.MaxImagePixels = 178_956_970,
    fps: Annotated[float | None, typer.Option(help="Video frames a second. [default: the processor's]")] = None,
    min_frames: Annotated[int | None, typer.Option(min=1, help="Least frames of a video.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Most frames of a video.")] = None,
    processor_arg: options.ProcessorArg = None,
    chat_template: options.ChatTemplate = None,
    trust_remote_code: options.TrustRemoteCode = False,
    audio_in_video: Annotated[
        bool, typer.Option("--audio-in-video", help="Interleave videos with their sound (Qwen-Omni).")
    ] = False,
    verify_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of rows compared with the real processor (0: none).")
    ] = 0.01,
    dataset: options.Dataset = None,
    format: options.Format = None,
    column: options.Column = None,
    tag: options.Tag = None,
    media_dir: options.MediaDir = None,
    sample_ratio: options.SampleRatio = None,
    split: options.Split = None,
    system_prompt: options.SystemPrompt = None,
    user_prompt: options.UserPrompt = None,
    min_duration: options.MinDuration = None,
    max_duration: options.MaxDuration = None,
    limit: options.Limit = None,
    workers: options.Workers = None,
    max_reject_rate: options.RejectRate = 0.05,
    sample_timeout: options.SampleTimeout = 300.0,
    worker_memory: options.WorkerMemory = "8G",
    fresh: options.Fresh = False,
    part: options.InPart = None,
    engine: options.UseEngine = "local",
    ray_address: options.RayAddress = None,
    dry_run: Annotated[bool, typer.Option(help="Load, check and measure the first rows; write nothing.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tokenize and label multimodal chats into shards, and prove it against the real processor."""
    from vlm_prep.ingest.source import open_samples
    from vlm_prep.tokenize.tokenize_run import dry_run as preview
    from vlm_prep.tokenize.tokenize_run import tokenize

    options.check_positive(fps, "--fps")
    options.check_history(train_on, rewritten_history)
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise InputError(
            f"--min-frames {min_frames} is more than --max-frames {max_frames}", "lower the one or raise the other"
        )
    samples = open_samples(
        source,
        datasets=dataset,
        format=format,
        columns=options.pairs(column, "--column"),
        tags=options.pairs(tag, "--tag"),
        media_dir=media_dir,
        sample_ratio=sample_ratio,
        limit=limit,
        split=split,
        system_prompt=system_prompt,
        user_prompt=user_prompt,
        min_duration=min_duration,
        max_duration=max_duration,
    )
    config = TokenizeConfig(
        max_length=max_length,
        overlong=overlong,
        media=media,
        audio=audio,
        train_on=train_on,
        train_end=train_end,
        train_reasoning=train_reasoning,
        train_tool_calls=train_tool_calls,
        rewritten_history=rewritten_history,
        loss_weights=loss_weights,
        thinking_prefix=thinking_prefix,
        control_tokens=control_tokens,
        tool_text=tool_text,
        check_media=check_media,
        max_image_pixels=max_image_pixels,
        fps=fps,
        min_frames=min_frames,
        max_frames=max_frames,
        processor_args=options.settings(processor_arg),
        chat_template=options.read_template(chat_template),
        trust_remote_code=trust_remote_code,
        audio_in_video=audio_in_video,
        verify_fraction=verify_fraction,
    )
    place = place_for(source, out, ".tok", work_dir, part)
    run = options.run_options(
        place.folder, workers, fresh, max_reject_rate, quiet, sample_timeout, worker_memory, part, engine, ray_address
    )
    if dry_run:
        options.show_json(preview(samples, processor, config, run))
        return
    run_and_show(lambda: tokenize(samples, processor, config, run), place, as_json, run.say)
