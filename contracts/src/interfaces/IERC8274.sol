// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The inner layer of ERC-8274 (draft), which the ERC calls IProofVerifier
/// @notice Source: ERC-8274, "AI Inference Proof Verification Interfaces", draft of 2026, section
/// "IProofVerifier". A draft may change; the three signatures here are those it has had since it
/// split into layers.
interface IERC8274 {
    /// @notice Whether the proof holds for this input and output.
    /// @param inputHash Commitment to the input; each implementation says how it is made.
    /// @param outputHash Commitment to the output, likewise.
    /// @param metadata What does not change between calls, kept by the calling contract.
    /// @param proof The evidence for this inference.
    function verify(
        bytes32 inputHash,
        bytes32 outputHash,
        bytes calldata metadata,
        bytes calldata proof
    ) external returns (bool);

    /// @notice Kind of proof, as "paradigm/variant".
    function proofSystem() external view returns (string memory);

    /// @notice Identifies this deployment among others of its kind.
    function proofProfile() external view returns (bytes32);
}

/// @title ERC-165
interface IERC165 {
    /// @notice Whether the contract implements the interface with this id.
    function supportsInterface(bytes4 interfaceId) external view returns (bool);
}
