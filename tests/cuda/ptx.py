"""PTX as C++, so that nvcc's code for the kernels runs on the host.

Knows the instructions that copying and comparing take, and refuses any other.
"""

from __future__ import annotations

import re

__all__ = ["translate"]

PLACES = {
    "%tid.x": "threadIdx.x",
    "%ctaid.x": "blockIdx.x",
    "%ntid.x": "blockDim.x",
    "%nctaid.x": "gridDim.x",
}
BITWISE = {  # with the type's bits taken as an unsigned number, which wraps around
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul.lo": "{0} * {1}",
    "mad.lo": "{0} * {1} + {2}",
    "neg": "0 - {0}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    "mov": "{0}",
    "cvta.to.global": "{0}",
}
SIGNED = {
    "min": "{0} < {1} ? {0} : {1}",
    "max": "{0} > {1} ? {0} : {1}",
    "shl": "{0} << {1}",
    "shr": "{0} >> {1}",
    "bfe": "{0} >> {1} & ((uint64_t{{1}} << {2}) - 1)",
}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def translate(ptx: str) -> str:
    """Return C++ that defines ``entries`` (csrc/tests/cuda_ptx/entries.h)."""
    functions, table = [], []
    ptx = re.sub(r"//[^\n]*", "", ptx)
    for found in re.finditer(r"\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{(.*?)\n\}", ptx, re.DOTALL):
        name, declared, body = found.groups()
        places, sizes, total = _parameters(declared)
        body = re.sub(r"\.pragma [^\n]*", "", body)
        lines = [_line(each.strip(), places) for each in body.split("\n") if each.strip()]
        lines.sort(key=lambda line: not line.startswith("uint") and not line.startswith("bool"))
        functions += [f"static void {name}(const uint8_t* P) {{", *lines, "}"]
        parameters = ", ".join(f"{{{at}, {size}}}" for at, size in sizes)
        table.append(f'    {{"{name}", {name}, {{{parameters}}}, {total}}},')
    head = '#include "csrc/tests/cuda_ptx/entries.h"\n'
    return "\n".join([head, *functions, "const std::vector<Entry> entries = {", *table, "};", ""])


def _parameters(declared: str) -> tuple[dict[str, int], list[tuple[int, int]], int]:
    """Return where each parameter stands, by name and in order with its size, and the sum."""
    places, sizes, end = {}, [], 0
    declared = re.sub(r"\.ptr \.align \d+ ", "", declared)  # the attributes of a pointer
    for each in filter(None, (part.strip() for part in declared.split(","))):
        found = re.fullmatch(r"\.param (?:\.align (\d+) )?\.\w(\d+) (\w+)(?:\[(\d+)\])?", each)
        if found is None:
            raise ValueError(f"unknown parameter: {each}")
        size = int(found[2]) // 8
        alignment, size = int(found[1] or size), size * int(found[4] or 1)
        end = -(-end // alignment) * alignment
        places[found[3]] = end
        sizes.append((end, size))
        end += size
    return places, sizes, end


def _type(name: str, *, unsigned: bool = False) -> str:
    if name == "pred":
        return "bool"
    sign = "" if name[0] == "s" and not unsigned else "u"
    return f"{sign}int{name[1:]}_t"


def _name(text: str) -> str:
    return re.sub(r"\W", "", text)


def _line(line: str, places: dict[str, int]) -> str:
    """Translate one line of a kernel's body."""
    if declared := re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", line):
        kind = _type(declared[1])
        return (
            f"{kind} " + ", ".join(f"{declared[2]}{i} = 0" for i in range(int(declared[3]))) + ";"
        )
    if line.endswith(":"):
        return f"{_name(line)}:;"
    found = re.fullmatch(r"(?:@(!?)%(\w+)\s+)?([\w.]+)\s*(.*);", line)
    if found is None:
        raise ValueError(f"unknown PTX: {line}")
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", found[4])
    text = _instruction(found[3], operands, places)
    return f"if ({found[1]}{found[2]}) {{ {text} }}" if found[2] else text


def _instruction(name: str, operands: list[str], places: dict[str, int]) -> str:
    *parts, kind = name.split(".")
    operation = ".".join(parts)

    def value(index: int, type_: str) -> str:
        return f"static_cast<{type_}>({_value(operands[index], places)})"

    def values(type_: str) -> list[str]:
        return [value(index, type_) for index in range(1, len(operands))]

    if name == "ret":
        return "return;"
    if name in ("bra", "bra.uni"):
        return f"goto {_name(operands[0])};"
    if parts[0] in ("ld", "st"):
        return _memory(parts, kind, operands, places)
    if operation == "atom.global.or":
        word = f"reinterpret_cast<unsigned*>({_address(operands[1], places)})"
        return f"{_name(operands[0])} = atomicOr({word}, {value(2, 'unsigned')});"
    result = _name(operands[0])
    if parts[0] == "cvt":
        return f"{result} = static_cast<{_type(parts[1])}>({value(1, _type(kind))});"
    if parts[0] == "setp" and len(parts) == 2:
        a, b = values(_type(kind))
        return f"{result} = {a} {COMPARISONS[parts[1]]} {b};"
    if operation == "selp":
        a, b = value(1, _type(kind)), value(2, _type(kind))
        return f"{result} = {value(3, 'bool')} ? {a} : {b};"
    if operation == "mul.wide":
        (a, b), wide = values(_type(kind)), _type(kind[0] + str(2 * int(kind[1:])))
        return f"{result} = static_cast<{wide}>({a}) * {b};"
    if name == "not.pred":
        return f"{result} = !{value(1, 'bool')};"
    if operation in BITWISE:
        return f"{result} = {BITWISE[operation].format(*values(_type(kind, unsigned=True)))};"
    if operation in SIGNED:
        return f"{result} = {SIGNED[operation].format(*values(_type(kind)))};"
    raise ValueError(f"unknown PTX instruction: {name} {operands}")


def _memory(parts: list[str], kind: str, operands: list[str], places: dict[str, int]) -> str:
    """Translate a load or a store, of one register or of four."""
    memory, registers = operands if parts[0] == "st" else operands[::-1]
    address, four = _address(memory, places), "v4" in parts
    if four and kind[1:] != "32":
        raise ValueError(f"unknown vector: {kind}")
    type_ = "uint4" if four else _type(kind)
    each = [_value(part.strip(), places) for part in registers.strip("{}").split(",")]
    if parts[0] == "st":
        made = ", ".join(f"static_cast<{'uint32_t' if four else type_}>({part})" for part in each)
        return f"*reinterpret_cast<{type_}*>({address}) = {type_}{{{made}}};"
    loaded = f"const {type_} v = *reinterpret_cast<const {type_}*>({address});"
    fields = [f"v.{field}" for field in "xyzw"] if four else ["v"]
    taken = "".join(f" {part} = {field};" for part, field in zip(each, fields, strict=True))
    return f"{{ {loaded}{taken} }}"


def _value(operand: str, places: dict[str, int]) -> str:
    if operand in PLACES:
        return PLACES[operand]
    if operand.startswith("%"):
        return _name(operand)
    if operand in places:
        return f"reinterpret_cast<uint64_t>(P + {places[operand]})"
    return f"{int(operand, 0)}LL"


def _address(operand: str, places: dict[str, int]) -> str:
    base, _, offset = operand.strip("[]").partition("+")
    return f"{_value(base, places)} + {int(offset or '0')}"
