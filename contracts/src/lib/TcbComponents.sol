// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JsonText} from "./JsonText.sol";
import {TcbLevelText} from "./TcbLevelText.sol";

/// @notice The compact TCB info speaks of a component label it does not have.
error CompactLabelUnknown(uint256 index);

/// @title The sixteen components of a TCB, as TCB infos list them
/// @notice `{"svn":7,"category":"BIOS","type":"..."}`: category and type are optional, and the same
/// in every level, so that a level has SVNs only.
library TcbComponents {
    using JsonText for uint256;
    using TcbLevelText for uint256;

    /// @notice Bytes that `tables` makes for an array: sixteen addresses of pieces, and two cache
    /// entries of three words.
    uint256 internal constant SIZE = 0x2c0;
    /// @dev A piece: its length, then at most 89 bytes that stand between two SVNs.
    uint256 private constant PIECE = 0x80;

    /// @notice Reads labels (count, then category and type of each) and those of the components at
    /// the calldata address `from`, which is not yet checked to lie in the slice.
    /// @param strings What `TcbLevelText.tables` made.
    function tables(uint256 strings, uint256 from, uint256 arrays)
        internal
        pure
        returns (uint256 positions, uint256 next)
    {
        uint256 pieces;
        uint256 labels;
        (pieces, labels, from) = _pieces(strings, from);
        return _positions(pieces, labels, from, arrays);
    }

    /// @notice Writes the components whose SVNs are the first sixteen bytes of `svns`, eight at a
    /// time: levels differ little, so eight that are those of the level before are copied from its
    /// text. The piece after an SVN begins the next component; the eight bytes that the last one
    /// began are taken back, and in a copy may be anything.
    /// @param positions The array's part of what `tables` made.
    function components(uint256 at, uint256 svns, uint256 positions)
        internal
        pure
        returns (uint256 next)
    {
        at = at.put('{"svn":', 7);
        assembly ("memory-safe") {
            // Writes from `at` on, beyond all that is allocated, and the cache after the positions.
            let cache := add(positions, 0x200)
            for { let end := cache } lt(positions, end) { cache := add(cache, 0x60) } {
                let eight := shr(192, svns)
                switch eq(eight, mload(cache))
                case 1 {
                    let length := mload(add(cache, 0x40))
                    mcopy(at, mload(add(cache, 0x20)), length)
                    at := add(at, length)
                    positions := add(positions, 0x100)
                    svns := shl(64, svns)
                }
                default {
                    mstore(cache, eight)
                    mstore(add(cache, 0x20), at)
                    for { let last := add(positions, 0x100) } lt(positions, last) {} {
                        let svn := byte(0, svns)
                        if gt(svn, 9) {
                            if gt(svn, 99) {
                                mstore8(at, add(48, div(svn, 100)))
                                at := add(at, 1)
                                svn := mod(svn, 100)
                            }
                            mstore8(at, add(48, div(svn, 10)))
                            at := add(at, 1)
                            svn := mod(svn, 10)
                        }
                        mstore8(at, add(48, svn))
                        let piece := mload(positions)
                        let length := mload(piece)
                        mcopy(add(at, 1), add(piece, 0x20), length)
                        at := add(add(at, 1), length)
                        positions := add(positions, 0x20)
                        svns := shl(8, svns)
                    }
                    mstore(add(cache, 0x40), sub(at, mload(add(cache, 0x20))))
                }
            }
            next := sub(at, 8)
        }
    }

    /// @dev Writes the label of each kind of component once, as it stands between two SVNs:
    /// `,"category":"...","type":"..."},{"svn":`. The first piece has no label.
    function _pieces(uint256 table, uint256 from)
        private
        pure
        returns (uint256 pieces, uint256 labels, uint256 next)
    {
        assembly ("memory-safe") {
            labels := byte(0, calldataload(from))
            // Allocates a piece for each label, one for none, and the word the last may run over.
            pieces := mload(0x40)
            mstore(0x40, add(pieces, add(add(PIECE, 0x20), mul(labels, PIECE))))
        }
        unchecked {
            _piece(pieces, table, 0, 0);
            next = from + 1;
            for (uint256 i = 1; i <= labels; ++i) {
                uint256 category;
                uint256 kind;
                assembly ("memory-safe") {
                    let word := calldataload(next)
                    category := byte(0, word)
                    kind := byte(1, word)
                }
                _piece(pieces + i * PIECE, table, category, kind);
                next += 2;
            }
        }
    }

    function _piece(uint256 piece, uint256 table, uint256 category, uint256 kind) private pure {
        unchecked {
            uint256 at = piece + 0x20;
            if (category != 0) at = at.put(',"category":"', 13).string_(table, category - 1);
            if (kind != 0) at = at.put(',"type":"', 9).string_(table, kind - 1);
            at = at.put('},{"svn":', 9);
            assembly ("memory-safe") {
                // `piece` was allocated by `_pieces`.
                mstore(piece, sub(at, add(piece, 0x20)))
            }
        }
    }

    /// @dev For each sixteen components the addresses of their pieces, then for each eight of them
    /// the cache of `components`: SVNs (none yet: what no eight bytes are), address and length.
    function _positions(uint256 pieces, uint256 labels, uint256 from, uint256 arrays)
        private
        pure
        returns (uint256 positions, uint256 next)
    {
        assembly ("memory-safe") {
            positions := mload(0x40)
            mstore(0x40, add(positions, mul(arrays, SIZE)))
        }
        unchecked {
            uint256 at = positions;
            for (; arrays != 0; --arrays) {
                for (next = from + 16; from < next; ++from) {
                    uint256 label;
                    assembly ("memory-safe") {
                        label := byte(0, calldataload(from))
                    }
                    if (label > labels) revert CompactLabelUnknown(label);
                    assembly ("memory-safe") {
                        // One of the first sixteen words of the array's, all allocated above.
                        mstore(at, add(pieces, mul(label, PIECE)))
                    }
                    at += 0x20;
                }
                assembly ("memory-safe") {
                    // The first and fourth of the six words after them.
                    mstore(at, not(0))
                    mstore(add(at, 0x60), not(0))
                }
                at += 0xc0;
            }
        }
    }
}
