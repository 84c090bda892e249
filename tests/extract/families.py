"""The families of models that transformers knows: a tiny model of each of text, and why the others are left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

# Small sizes under transformers' usual names; a family takes those that its config knows.
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    # Mixtures of experts
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    # Latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    # Linear attention
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
# The ids of each kind of tokenizer (see tests/conftest.py), as its models' configs name them.
SPECIAL_IDS = {
    "bert": {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None},
    "roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "llama": {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2},
}


@dataclass(frozen=True)
class Family:
    """One family: transformers' model type, and what its small config needs beside `SIZES`.

    Attributes:
        tokenizer: "bert" (WordPiece), "roberta" (bytes, pad id 1) or "llama" (bytes, no pad token).
        variant: tells two entries of one model type apart.
    """

    model_type: str
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self) -> str:
        """The model type, and the variant where there is one."""
        return f"{self.model_type}-{self.variant}" if self.variant else self.model_type


def _families(tokenizer: str, names: str, **special: dict[str, Any]) -> Iterator[Family]:
    """The families that are named; `special` holds what some configs need, with "_" for "-" in a name."""
    for name in names.split():
        yield Family(name, tokenizer, special.pop(name.replace("-", "_"), {}))
    assert not special, special


MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
LATENT = {"num_key_value_heads": 4}  # latent attention has as many key heads as query heads
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}

FAMILIES = [
    *_families(
        "bert",
        "albert bert bert-generation big_bird bros canine convbert deberta deberta-v2 distilbert dpr electra "
        "ernie esm esmc eurobert flaubert fnet funnel gte jina_embeddings_v3 layoutlm lilt megatron-bert "
        "mobilebert modernbert mpnet mra nomic_bert nystromformer rembert roc_bert roformer splinter squeezebert "
        "tapas ultrabert xlm xlnet yoso",
        esmc={"num_key_value_heads": 4},
        lilt={"hidden_size": 48},
        funnel={
            "architectures": ["FunnelModel"],  # the type has two models
            "block_sizes": [1, 1],
            "d_head": 8,
            "d_inner": 48,
            "num_decoder_layers": 1,
        },
    ),
    *_families(
        "roberta",
        "camembert clip_text_model data2vec-text ibert longformer luke markuplm modernbert-decoder roberta "
        "roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod",
        longformer={"attention_window": 8},
        luke={"entity_vocab_size": 8, "entity_emb_size": 8},
        xmod={"languages": ["en_XX"]},
    ),
    *_families(
        "llama",
        "afmoe apertus arcee axk1 axk2 bailing_hybrid bamba beam biogpt bitnet bloom codegen cohere cohere2 "
        "cohere2_moe cpmant ctrl cwm dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dots1 "
        "ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo flint gemma gemma2 "
        "gemma3_text gemma3n_text gemma4_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2 "
        "gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe "
        "granitemoe_swa granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 "
        "hy_v4 hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear "
        "kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4_text longcat_flash mamba mamba2 mellum mimo_v2_flash "
        "minicpm3 minimax minimax_m2 ministral ministral3 mistral mistral4 mixtral mpt nanochat nemotron "
        "nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt openai_privacy_filter opt persimmon phi phi3 "
        "phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next recurrent_gemma reformer "
        "rwkv seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm xlstm youtu zamba zamba2 zaya",
        axk1=LATENT,
        axk2=LATENT,
        bailing_hybrid=LATENT | LINEAR,
        bamba={**MAMBA, "attn_layer_indices": [1]},
        codegen={"rotary_dim": 8},
        dbrx={
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        },
        deepseek_v2=LATENT,
        deepseek_v3=LATENT,
        deepseek_v32={**LATENT, "index_head_dim": 16, "index_n_heads": 2},
        falcon_h1={
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        },
        gemma3n_text={"num_hidden_layers": 4, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 400},
        gemma4_text={"vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8},
        glm4_moe_lite=LATENT,
        glm_moe_dsa=LATENT,
        gpt_neo={"attention_types": [[["global", "local"], 1]], "window_size": 8},
        gptj={"rotary_dim": 8},
        granitemoehybrid={**MAMBA, "layer_types": ["mamba", "attention"]},
        jamba={"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
        kimi_linear={**LATENT, **LINEAR, "linear_head_dim": 8, "linear_num_heads": 4},
        lfm2=CONVOLUTION,
        lfm2_moe=CONVOLUTION,
        lfm3=CONVOLUTION,
        longcat_flash={**LATENT, "num_layers": 2},
        mamba2={"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
        minicpm3=LATENT,
        mistral4=LATENT,
        nemotron_h={"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16},
        qwen3_5_moe_text=LINEAR,
        qwen3_5_text=LINEAR,
        qwen3_next=LINEAR,
        recurrent_gemma={"block_types": ["recurrent", "attention"]},
        reformer={
            "axial_pos_embds_dim": [16, 16],
            "axial_pos_shape": [8, 8],
            "attn_layers": ["local", "lsh"],
            "local_attn_chunk_length": 8,
            "lsh_attn_chunk_length": 8,
        },
        xlstm={"hidden_size": 64, "num_heads": 4},
        youtu=LATENT,
        zamba={"num_hidden_layers": 4, "attn_layer_period": 1, "attn_layer_offset": 0},
        zamba2={"layers_block_type": ["linear_attention", "hybrid"]},
        zaya={"num_experts_per_tok": 1},
    ),
    Family("opt", "llama", {"word_embed_proj_dim": 16}, variant="projected"),
]


# Every other type of transformers' mapping, by the reason. What is neither here nor above is named by the tests.
COVERED_VERSION = "5.23.0"  # of transformers, whose mapping the two lists cover
LEFT_OUT = {
    "reads pictures or videos": (
        "aimv2_vision_model beit bit chinese_clip_vision_model clip_vision_model cohere_compass_vision "
        "conditional_detr convnext convnextv2 cosmos3_edge_vision cvt d_fine dab-detr data2vec-vision deformable_detr "
        "deimv2 deit depth_pro detr dinat dinov2 dinov2_with_registers dinov3_convnext dinov3_vit donut-swin dpt "
        "edgetam edgetam_video edgetam_vision_model efficientloftr efficientnet exaone4_5_vision focalnet "
        "gemma3n_vision gemma4_vision glm4v_moe_vision glm4v_vision glm5_next_vision glm_image_vision "
        "glm_image_vqmodel glm_ocr_vision glpn granite_docling_vision hgnet_v2 hiera hunyuan_vl_vision "
        "idefics3_vision ijepa imagegpt inkling2_vision internvl_vision kimi_k25_vision levit lfm3_vl_vision "
        "lightglue lw_detr mask2former maskformer maskformer-swin mgp-str minicpm_ocr_vision minicpmv4_7_vision mlcd "
        "mlcd_vision_model mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 muse_glimmer_vision muse_spark_vision "
        "omdet-turbo oneformer pe_audio_video_encoder pe_video_encoder pixio pixtral poolformer pp_doclayout_v3 "
        "pp_doclayout_v4 pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_medium_det pp_ocrv6_small_det "
        "pp_ocrv6_small_rec pp_ocrv6_tiny_rec pvt pvt_v2 qianfan_ocr_vision qwen2_5_vl_vision qwen3_5_moe_vision "
        "qwen3_5_vision qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_vision radio regnet resnet rf_detr rt_detr "
        "rt_detr_v2 sam sam2 sam2_hiera_det_model sam2_video sam2_vision_model sam3_tracker sam3_tracker_video "
        "sam3_video sam3_vision_model sam3_vit_model sam_hq sam_hq_vision_model sam_vision_model sapiens2 segformer "
        "seggpt siglip2_vision_model siglip_vision_model smolvlm_vision swiftformer swin swin2sr swinv2 "
        "table-transformer textnet timesformer timm_backbone timm_wrapper tipsv2_vision_model uvdoc "
        "video_llama_3_vision videomae videoprism_vision_model vit vit_mae vit_msn vitdet vivit vjepa2 yolos"
    ),
    "reads sound": (
        "audio-spectrogram-transformer audioflamingo3_encoder canary cohere_asr dac data2vec-audio encodec "
        "fun_asr_nano_encoder gemma3n_audio gemma4_audio glmasr_encoder granite_speech5_ctc granite_speech5_encoder "
        "higgs_audio_v2_tokenizer hubert lasr_ctc lasr_encoder mimi mimi_decoder mimi_encoder moonshine "
        "moonshine_streaming moss_transcribe_diarize_audio muse_spark_audio nemotron3_5_asr "
        "nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_audio nemotron3_diarization "
        "nemotron3_diarization_audio nemotron_asr_streaming nemotron_asr_streaming_encoder neucodec parakeet_ctc "
        "parakeet_encoder parakeet_rnnt parakeet_tdt pe_audio_encoder pocket_tts_audio_tokenizer "
        "pocket_tts_audio_tokenizer_decoder pocket_tts_audio_tokenizer_encoder qwen2_audio_encoder qwen3_asr_encoder "
        "sew sew-d speech_to_text speecht5 unispeech unispeech-sat univnet vibevoice_acoustic_tokenizer "
        "vibevoice_acoustic_tokenizer_decoder vibevoice_acoustic_tokenizer_encoder voxtral_encoder "
        "voxtral_realtime_encoder wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper xcodec xcodec2"
    ),
    "reads pictures, videos, sound or proteins beside text": (
        "aimv2 align altclip aria audioflamingo3 aya_vision blip blip-2 bridgetower chameleon chinese_clip clap clip "
        "clipseg cohere2_vision cohere_compass cosmos3_edge cosmos3_omni deepseek_ocr2 deepseek_vl deepseek_vl_hybrid "
        "diffusion_gemma dots3_note embedding_gemma2 emu3 ernie4_5_vl_moe evolla exaone4_5 fast_vlm flava florence2 "
        "fun_asr_nano fuyu gemma3 gemma3n gemma4 gemma4_unified git glm46v glm4v glm4v_moe glm5_next glm_image "
        "glm_ocr glmasr glmga got_ocr2 granite4_vision granite_docling granite_speech granite_speech_plus "
        "grounding-dino groupvit hunyuan_vl hyperclovax_vision_v2 idefics idefics2 idefics3 inkling2 inkling_mm_model "
        "instructblip instructblipvideo internvl janus kimi_k25 kosmos-2 kosmos-2.5 kyutai_speech_to_text layoutlmv3 "
        "lfm2_vl lfm3_vl lighton_ocr llama4 llava llava_next llava_next_video llava_onevision lxmert metaclip_2 "
        "minicpm_ocr minicpmv4_6 minicpmv4_7 minimax_m3_vl mistral3 mistral_large4 mllama mm-grounding-dino "
        "modernvbert molmo2 moss_transcribe_diarize muse_glimmer muse_spark musicflamingo nemo_speechlm neomme ovis2 "
        "owlv2 owlvit paddleocr_vl paligemma pe_audio pe_audio_video pe_video perception_lm phi4_multimodal pi0 "
        "qianfan_ocr qwen2_5_omni_thinker qwen2_5_vl qwen2_audio qwen2_vl qwen3_5 qwen3_5_moe qwen3_asr "
        "qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe qwen4_exp sam3 sam3_lite_text seamless_m4t seamless_m4t_v2 "
        "siglip siglip2 smolvlm step3p7 t5gemma2 t5gemma2_encoder tipsv2 tvp udop ultravbert unlimited_ocr vibevoice "
        "vibevoice_asr video_llama_3 video_llava videoprism vilt vipllava vision-text-dual-encoder visual_bert "
        "voxtral voxtral_realtime xclip"
    ),
    "a part inside a model that reads more than text": (
        "aria_text blip_2_qformer cohere_compass_text cosmos3_edge_text dots3_note_text embedding_gemma2_text "
        "gemma4_unified_text glm4v_moe_text glm4v_text glm5_next_text glm_image_text glm_ocr_text "
        "granite_docling_text hunyuan_vl_text minimax_m3_vl_text mistral_large4_text molmo2_text "
        "muse_glimmer_assistant muse_glimmer_text muse_spark_text nemotron3_5_transcribe_word_timestamp "
        "qwen2_5_vl_text qwen2_vl_text qwen3_vl_moe_text qwen3_vl_text qwen4_exp_text sam3_lite_text_text_model "
        "tipsv2_text_model voxtral_realtime_text"
    ),
    "an encoder-decoder": (
        "bart bigbird_pegasus blenderbot blenderbot-small fsmt led longt5 m2m_100 marian mbart mt5 mvp nllb-moe "
        "pegasus pegasus_x plbart prophetnet switch_transformers t5 t5gemma umt5"
    ),
    "writes sound": (
        "bark clvp csm dia fastspeech2_conformer fastspeech2_conformer_with_hifigan gradium_phonon_tts higgs_audio_v2 "
        "moshi musicgen musicgen_melody pocket_tts vits"
    ),
    "reads series of numbers": (
        "autoformer decision_transformer informer patchtsmixer patchtst time_series_transformer timesfm timesfm2_5"
    ),
    "needs the package detectron2": "layoutlmv2",
    "reads bytes, with a config that nests several models": "blt perceiver",
}


def installed() -> list[Family]:
    """The families that the installed transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return [family for family in FAMILIES if family.model_type in MODEL_MAPPING_NAMES]


def save_model(family: Family, folder: Path) -> None:
    """Save a tiny model of the family with random weights, and a tokenizer that adds no token, as one folder."""
    from transformers import CONFIG_MAPPING, AutoModel

    from tests.conftest import _save_tokenizer

    _save_tokenizer(family.tokenizer, folder, bos=False)
    kind = CONFIG_MAPPING[family.model_type]
    renamed = kind.attribute_map or {}
    known = {*inspect.signature(kind.__init__).parameters, *getattr(kind, "__dataclass_fields__", {})}
    shared = {}
    for name, value in (SIZES | SPECIAL_IDS[family.tokenizer]).items():
        own = name if name in known else renamed.get(name, name)
        if own in known:
            shared[own] = value
    config = kind(**shared | family.config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # far from 0, so that a wrong mask or position shows
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
